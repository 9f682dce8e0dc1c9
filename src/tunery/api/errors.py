"""The one place that turns an error into OpenAI's envelope."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tunery.api import wayfinding
from tunery.domain.errors import InvalidRequest, ServerFault, TuneryError
from tunery.texts import say
from tunery.wire.validation import from_problems

MAX_PATH = 500  # of it is said again


def envelope(error: TuneryError) -> JSONResponse:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers | error.text_header())


def from_http(request: Request, error: HTTPException) -> TuneryError:
    """Routing errors of the framework: no such path, wrong method, a body it could not read."""
    path, method = request.url.path, request.method
    if error.status_code == 404:
        hint = wayfinding.hint(request.app, method, path)
        found = InvalidRequest(
            say("error.invalid_url", method=method, path=path[:MAX_PATH], hint=hint), code="unknown_url"
        )
    elif error.status_code == 405:
        allowed = ", ".join(wayfinding.methods_at(request.app, path))
        found = InvalidRequest(
            say("error.method_not_allowed", method=method, path=path[:MAX_PATH], allowed=allowed),
            code="method_not_supported",
        )
        found.headers = {"allow": allowed}
    else:
        found = InvalidRequest(str(error.detail))
    found.status = error.status_code
    return found


def install(app: FastAPI) -> None:
    @app.exception_handler(TuneryError)
    async def on_known(request: Request, error: TuneryError) -> JSONResponse:
        request.state.error = error  # for the audit log
        return envelope(error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return envelope(from_problems(error.errors()))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        # The framework wraps whatever goes wrong while it reads a body; the cause says more.
        known = error.__cause__ if isinstance(error.__cause__, TuneryError) else None
        return envelope(known or from_http(request, error))


def unexpected(request_id: str) -> ServerFault:
    return ServerFault(say("error.server_failed", request_id=request_id))
