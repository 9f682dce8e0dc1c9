"""Sends one webhook and tells how it went. Follows no redirect and connects only to the address that was checked."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tunery.notify.signing import signed_headers
from tunery.notify.targets import RefusedTarget, resolve_target
from tunery.notify.troubles import explained
from tunery.texts import say

TIMEOUT_S = 10.0
USER_AGENT = "Tunery/1.0 (+webhooks)"


@dataclass(frozen=True)
class DeliveryResult:
    delivered: bool
    status: int | None  # HTTP status; None when there was no answer
    latency_ms: int
    error: str | None


def encode_event(event: dict[str, Any]) -> bytes:
    """The bytes that are signed and sent; the same event gives the same at every attempt."""
    ordered = {key: event[key] for key in ("object", "id", "type", "created_at", "data")}
    return json.dumps(ordered, separators=(",", ":")).encode()


def event_body(*, event_id: str, event_type: str, created_at: int, data: dict[str, Any]) -> bytes:
    return encode_event({"object": "event", "id": event_id, "type": event_type, "created_at": created_at, "data": data})


def deliver(
    *, url: str, secrets: Sequence[str], webhook_id: str, body: bytes, now: float, allow_private: bool
) -> DeliveryResult:
    """One attempt. Only a 2xx answer counts; a redirect is a failure and never followed."""
    started = time.monotonic()
    try:
        target = resolve_target(url, allow_private=allow_private)
        headers = {
            "host": target.host_header,
            "user-agent": USER_AGENT,
            "content-type": "application/json",
            **signed_headers(secrets, webhook_id=webhook_id, timestamp=int(now), body=body),
        }
        status = _post(target.url, target.server_name, headers, body)
    except (RefusedTarget, httpx.HTTPError, httpx.InvalidURL) as exc:
        return DeliveryResult(False, None, _since(started), _explained(exc))
    delivered = 200 <= status < 300
    return DeliveryResult(delivered, status, _since(started), None if delivered else _failure(status))


def _post(url: str, server_name: str, headers: dict[str, str], body: bytes) -> int:
    # trust_env off: a proxy from the environment would resolve the name again.
    with (
        httpx.Client(trust_env=False, follow_redirects=False, timeout=TIMEOUT_S) as client,
        client.stream("POST", url, content=body, headers=headers, extensions={"sni_hostname": server_name}) as response,
    ):
        # The answer's body is never read: it could be endless.
        return response.status_code


def _failure(status: int) -> str:
    if 300 <= status < 400:
        return say("delivery.redirect", status=status)
    return say("delivery.status", status=status)


def _explained(exc: Exception) -> str:
    if isinstance(exc, RefusedTarget):
        return say("delivery.refused", reason=exc.args[0])
    return explained(exc)


def _since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
