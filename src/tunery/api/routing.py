"""What each route of the API does before its handler runs: the key first, then the body, within its bound."""

from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from tunery.api.access import Gate
from tunery.api.body import MAX_JSON_BYTES, JsonRequest, max_bytes_of
from tunery.domain.errors import InvalidRequest
from tunery.texts import say

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """FastAPI reads and parses a body before it asks the dependencies who is there. This one asks first."""

    def get_route_handler(self) -> Handler:
        handle, gates = super().get_route_handler(), tuple(gates_of(self.dependant))
        max_bytes = max_bytes_of(self.endpoint) or MAX_JSON_BYTES
        takes_json = self.body_field is not None

        async def handler(request: Request) -> Response:
            for gate in gates:
                await gate.admit(request)
            if "content-encoding" in request.headers:
                refuse_compressed(request.headers["content-encoding"])
            request.state.max_body_bytes = max_bytes
            return await handle(JsonRequest.of(request) if takes_json else request)

        return handler


Router = partial(APIRouter, route_class=Route)


def gates_of(dependant: Dependant) -> Iterator[Gate]:
    if isinstance(dependant.call, Gate):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from gates_of(inner)


def refuse_compressed(encoding: str) -> None:
    """A small body may become a large one; no client of OpenAI's API compresses."""
    if encoding.strip().lower() not in ("", "identity"):
        error = InvalidRequest(
            say("error.compressed_body", encoding=encoding[:100]),
            code="unsupported_content_encoding",
        )
        error.status = 415
        raise error
