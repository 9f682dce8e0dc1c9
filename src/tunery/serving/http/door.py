"""Who may speak to the engine: whoever has its key. And which folders it reads adapters from.

The engine obeys what it is asked, in any project's name, so nobody but the api and the worker is to ask. `GET /health`
alone is open: it tells nothing but that a process lives, and supervisors have no key.
"""

import hmac
import ipaddress
import os
from pathlib import Path

import orjson
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tunery.domain.errors import AuthenticationFailed, InvalidRequest, PermissionDenied, TuneryError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class Door:
    def __init__(self, app: ASGIApp, *, key: str, host: str) -> None:
        """`key` "": anybody who reaches the address may ask, but no web page. `host`: where the engine listens."""
        self._app = app
        self._key = key.encode()
        self._is_local = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            answer = Response(orjson.dumps(problem.body()), problem.status, problem.headers, "application/json")
            await answer(scope, receive, send)

    def _problem(self, scope: Scope) -> TuneryError | None:
        headers = Headers(scope=scope)
        if self._is_local and not is_loopback(_host_of(headers.get("host", ""))):
            return PermissionDenied("The engine answers under its own address only.")
        if "origin" in headers:
            return PermissionDenied("The engine does not answer web pages.")
        if scope["path"] == "/health":
            return None
        if self._key:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key):
                return AuthenticationFailed(
                    "The engine was asked without its key. Set engine_api_key to the key that it was started with.",
                    code="invalid_api_key",
                )
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            return InvalidRequest("Send the body as JSON, with the header `Content-Type: application/json`.")
        return None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _host_of(header: str) -> str:
    """Without the port, and an IPv6 address without its brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def adapter_folder(path: str, below: tuple[Path, ...]) -> Path:
    """The folder with its links resolved. `below`: where adapters may lie; empty: anywhere.

    Raises InvalidRequest, in the same words whatever is or is not there, so that nothing can be found out by asking.
    """
    folder = Path(os.path.realpath(path))
    is_inside = not below or any(folder.is_relative_to(os.path.realpath(each)) for each in below)
    if not is_inside or any((folder / name).is_symlink() for name in ADAPTER_FILES):
        raise InvalidRequest("Adapters are not loaded from there.", param="lora_path")
    return folder
