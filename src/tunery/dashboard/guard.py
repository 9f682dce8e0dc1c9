"""What a browser may do with our pages, and whose requests are taken: headers, origins, and how often one may try keys.

The pages' scripts carry a nonce, so a script that got into a page by its data does not run. Two things stay open
because the framework needs them: `unsafe-eval` for scripts (it compiles its components' templates in the browser) and
`unsafe-inline` for styles (its widgets set style attributes).
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
import nicegui.client
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunery.dashboard.values import Values
from tunery.dashboard.visit import BASE
from tunery.domain.clock import Clock, system_clock
from tunery.settings import Settings

SOCKET = f"{BASE}/_nicegui_ws"
MAX_EVENT_BYTES = 1024 * 1024  # as engine.io's own limit
NONCE = "csp_nonce"  # where the request's scope keeps it
HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "same-origin"}
FRAMES = "frame-ancestors 'none'"
POLICY = (
    "default-src 'self'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; " + FRAMES
)


class Guard:
    """The outermost layer: headers on every answer, and no WebSocket for the page of another site."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if scope["path"].startswith(SOCKET) and not is_same_origin(HTTPConnection(scope), self.settings):
            await _refuse(scope, receive, send)
            return
        if scope["path"].startswith(SOCKET):  # events of a browser without WebSocket come as bodies
            scope.setdefault("state", {})["max_body_bytes"] = MAX_EVENT_BYTES
        nonce = scope[NONCE] = secrets.token_urlsafe(18)
        policy = POLICY.format(nonce=nonce) if scope["path"].startswith(BASE) else FRAMES

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", policy)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": "another origin"})  # before accept: a 403
        return
    await PlainTextResponse("This page belongs to another site.", status_code=403, headers=HEADERS)(
        scope, receive, send
    )


def is_same_origin(connection: HTTPConnection, settings: Settings) -> bool:
    """A form or a socket of another site carries its own Origin. Absent is fine: the cookie is SameSite. Behind a proxy
    that changes the host it is `public_url` that says which origin is ours, no header that anybody may send."""
    headers = connection.headers
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    own = {headers.get("host"), urlsplit(settings.base_url).netloc}
    return bool(host := origin.partition("://")[2]) and host in own


# ---- scripts that are part of a page
def script(connection: HTTPConnection, code: str) -> str:
    """A tag whose script runs. `code` is ours: it may hold no data of others."""
    return f'<script nonce="{connection.scope[NONCE]}">{code}</script>'


class _NonceLoader(jinja2.FileSystemLoader):
    """The framework's page templates, each script in them with the request's nonce. What is put into a template
    gets none."""

    def get_source(self, environment: jinja2.Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        source, path, is_current = super().get_source(environment, template)
        return source.replace("<script", f'<script nonce="{{{{ request.scope.{NONCE} }}}}"'), path, is_current


def give_nonces_to_the_framework() -> None:
    folder = Path(nicegui.client.__file__).with_name("templates")
    environment = jinja2.Environment(loader=_NonceLoader(folder), autoescape=True)
    nicegui.client.templates = Jinja2Templates(env=environment)


# ---- signing in
WINDOW_S = 300.0
MAX_FAILURES = 10  # of an address
MAX_FAILURES_OF_KEY = 100  # from all addresses: who knows how a key begins must not keep its owner out from one


class Throttle:
    """Counts failures by address and by the beginning of the key, at all apis together; forgets after `WINDOW_S`.

    Both are kept as hashes.
    """

    def __init__(self, values: Values, clock: Clock = system_clock) -> None:
        self._values, self._clock = values, clock

    async def enter(self, address: str, key_start: str) -> tuple[str, float]:
        """A try's name and seconds until the next one is taken; 0: this one is. Then it counts as a failure before it
        is known to be one, so that of tries at once, at whatever api, each counts."""
        name = f"{time.monotonic_ns():020}-{secrets.token_hex(4)}"  # of two that end at once, the later last
        wait_s = 0.0
        await self._values.remove_ended()
        for owner, most in _counted(address, key_start):
            await self._values.put(owner, name, "", until=self._clock() + WINDOW_S)
            failures = await self._values.list(owner)
            ends = [end for _, end in failures.values()]
            if (before := list(failures).index(name)) >= most:
                wait_s = max(wait_s, ends[before - most] - self._clock())
        if wait_s:
            await self.forgive(address, key_start, name)
        return name, wait_s

    async def forgive(self, address: str, key_start: str, name: str) -> None:
        """That one was no failure, or was not taken."""
        for owner, _ in _counted(address, key_start):
            await self._values.remove(owner, name)


def _counted(address: str, key_start: str) -> list[tuple[str, int]]:
    """What a try counts for, and how many failures each may have. Who has an IPv6 address has a network of them."""
    with suppress(ValueError):
        if isinstance(ip := ip_address(address), IPv6Address):
            address = str(ip_network((ip, 64), strict=False))
    return [(_digest(f"address {address}"), MAX_FAILURES), (_digest(f"key {key_start}"), MAX_FAILURES_OF_KEY)]


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]
