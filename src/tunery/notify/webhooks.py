"""Sends one webhook and tells how it went. Follows no redirect and connects only to the address that was checked."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx

from tunery.addresses import Networks, RefusedTarget, Target, resolve_targets
from tunery.notify.signing import signed_headers
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
    *, url: str, secrets: Sequence[str], webhook_id: str, body: bytes, now: float, private: Networks
) -> DeliveryResult:
    """One attempt. Only a 2xx answer counts; a redirect is a failure and never followed.

    `private`: the networks beside the internet that may be called.
    """
    started = time.monotonic()
    headers = {
        "user-agent": USER_AGENT,
        "content-type": "application/json",
        **signed_headers(secrets, webhook_id=webhook_id, timestamp=int(now), body=body),
    }
    try:
        status = _post(resolve_targets(url, private=private), headers, body)
    except (RefusedTarget, httpx.HTTPError, httpx.InvalidURL) as exc:
        return DeliveryResult(False, None, _since(started), _explained(exc))
    delivered = 200 <= status < 300
    return DeliveryResult(delivered, status, _since(started), None if delivered else _failure(status))


def _post(targets: list[Target], headers: dict[str, str], body: bytes) -> int:
    *others, last = targets
    for target in others:
        with suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return _post_to(target, headers, body)
    return _post_to(last, headers, body)


def _post_to(target: Target, headers: dict[str, str], body: bytes) -> int:
    # trust_env off: a proxy from the environment would resolve the name again.
    headers, named = {"host": target.host_header, **headers}, {"sni_hostname": target.server_name}
    with (
        httpx.Client(trust_env=False, follow_redirects=False, timeout=TIMEOUT_S) as client,
        client.stream("POST", target.url, content=body, headers=headers, extensions=named) as response,
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
