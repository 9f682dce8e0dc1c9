"""Headers, log line and metrics of every response. Plain ASGI: it must not buffer a stream."""

import hmac
import ipaddress
import logging
import secrets
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunery.api import metrics
from tunery.api.body import MAX_UNDECLARED_BYTES, too_large
from tunery.api.errors import envelope, unexpected
from tunery.api.refusals import API_PATHS
from tunery.domain.errors import InvalidRequest
from tunery.texts import say

log = logging.getLogger("tunery.api.access")

OPENAI_VERSION = "2020-10-01"


# Postgres has no place for U+0000, no object of ours has it in its name, and HTTP allows it in no header.
NUL_IN_ADDRESS = envelope(InvalidRequest(say("error.nul_in_address")))
NUL_IN_HEADER = envelope(InvalidRequest(say("error.nul_in_header")))


class BodyLimit:
    """Answers 413 once a body is larger than its route allows, and lets the handler see a client that went away.

    A route says more than the default in `state.max_body_bytes`, after it has looked at the key. Nothing of a body is
    kept before it is asked for, so that one that nobody reads costs nothing.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        declared = Headers(scope=scope).get("content-length", "")
        num_bytes, is_answered, is_refused = 0, False, False

        async def counted() -> Message:
            nonlocal num_bytes, is_refused
            limit = state.get("max_body_bytes", MAX_UNDECLARED_BYTES)
            message: Message = {"type": "http.disconnect"}
            if not is_refused and (num_bytes or not declared.isdecimal() or int(declared[:19]) <= limit):
                message = await receive()
                num_bytes += len(message.get("body", b""))
                if num_bytes <= limit:
                    return message
            if not is_refused and not is_answered:
                await envelope(too_large(limit))(scope, receive, send)
            is_refused = True
            return {"type": "http.disconnect"}

        async def send_unless_refused(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            if not is_refused:
                await send(message)

        try:
            await self.app(scope, counted, send_unless_refused)
        except Exception:
            if not is_refused:  # else it is about the client that seems to have gone
                raise


class Visitors:
    """For whom the dashboard asks. It speaks to the api over HTTP, as any client, so that its own address would stand
    in the audit log; it says its visitor's in a header that holds a secret of this process.
    """

    HEADER = "x-tunery-visitor"

    def __init__(self) -> None:
        self._secret = secrets.token_urlsafe(32)

    def headers(self, address: str) -> dict[str, str]:
        """To be sent with a request that is made for whoever has this address."""
        return {self.HEADER: f"{self._secret} {address}"} if address else {}

    def address_in(self, header: str) -> str | None:
        """None unless the header is of this process."""
        secret, _, address = header.partition(" ")
        if not hmac.compare_digest(secret.encode(), self._secret.encode()):
            return None
        try:
            return str(ipaddress.ip_address(address))
        except ValueError:
            return None


class VisitorAddress:
    """Makes the address that the dashboard says the request's own: `request.client`."""

    def __init__(self, app: ASGIApp, visitors: Visitors) -> None:
        self.app = app
        self.visitors = visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        header = Headers(scope=scope).get(Visitors.HEADER) if scope["type"] == "http" else None
        if header and (address := self.visitors.address_in(header)):
            scope["client"] = (address, 0)
        await self.app(scope, receive, send)


class RequestContext:
    """Gives each request its id, says it in `x-request-id`, and counts and logs the request when it has ended."""

    def __init__(self, app: ASGIApp, access_log: str = "changes") -> None:
        self.app = app
        self.access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        state = scope.setdefault("state", {})
        state["request_id"] = f"req_{uuid4().hex}"
        status = 0  # no answer yet

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                add_headers(MutableHeaders(scope=message), state, started)
            await send(message)

        try:
            if "\0" in scope["path"] or b"%00" in scope["query_string"]:
                await NUL_IN_ADDRESS(scope, receive, send_with_headers)
            elif any(b"\0" in value for _, value in scope["headers"]):
                await NUL_IN_HEADER(scope, receive, send_with_headers)
            else:
                await self.app(scope, receive, send_with_headers)
        except Exception:
            # Caught here and not in the framework's own outermost layer, whose answer would lack our headers.
            log.exception("unexpected error in %s %s, %s", scope["method"], scope["path"], state["request_id"])
            if status:
                raise  # in the middle of an answer: all that is left is to break it off
            await envelope(unexpected(state["request_id"]))(scope, receive, send_with_headers)
        finally:
            duration_s = time.perf_counter() - started
            metrics.observe_request(scope["method"], route_of(scope), status, duration_s)
            if is_told(self.access_log, scope, status):
                tell(scope, status, duration_s)


def add_headers(headers: MutableHeaders, state: dict, started: float) -> None:
    """Processing time is the time to the first byte: later ones of a stream are the engine's."""
    headers["x-request-id"] = state["request_id"]
    headers["openai-version"] = OPENAI_VERSION
    headers["openai-processing-ms"] = str(round((time.perf_counter() - started) * 1000))
    if state.get("ignored_headers"):  # of an old account: what a client sent without effect, it should be able to see
        headers["x-tunery-ignored-headers"] = ", ".join(state["ignored_headers"])
    caller = state.get("caller")
    if caller is not None:
        headers["openai-organization"] = caller.organization_id
        headers["openai-project"] = caller.project_id


def route_of(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "unknown")


def is_told(access_log: str, scope: Scope, status: int) -> bool:
    """By default what changes or runs something, and what was refused: neither pages nor polls, of which there are
    hundreds a minute for each open page."""
    if access_log == "changes":
        is_look = scope["method"] in ("GET", "HEAD", "OPTIONS") or not scope["path"].startswith(API_PATHS)
        return status >= 400 or status == 0 or not is_look
    return access_log == "all"


def tell(scope: Scope, status: int, duration_s: float) -> None:
    state = scope["state"]
    caller = state.get("caller")
    log.info(
        "%s %s %s",
        scope["method"],
        scope["path"],
        status,
        extra={
            "request_id": state["request_id"],
            "project_id": caller.project_id if caller else None,
            "duration_ms": round(duration_s * 1000, 1),
        },
    )
