"""An engine's error → ours. vLLM puts its status in `code` and its own class names in `type`."""

import httpx

from tunery.api.inference.resolve import Target
from tunery.domain.errors import InvalidRequest, TuneryError, Unavailable, no_such_model

RETRY_AFTER_S = "2"


def unavailable(message: str) -> Unavailable:
    return Unavailable(message, code="server_is_overloaded", headers={"retry-after": RETRY_AFTER_S})


def engine_error(response: httpx.Response, target: Target) -> TuneryError:
    """What the client is told. The engine's names for models are replaced by the one that the client used."""
    detail = detail_of(response)
    message = str(detail.get("message") or f"The engine answered {response.status_code}.")
    if target.adapter is not None:
        message = message.replace(target.adapter.id, target.public_name)
    param, code = detail.get("param"), detail.get("code")
    code = code if isinstance(code, str) else None
    if "maximum context length" in message:
        code, param = "context_length_exceeded", param or "messages"
    status = response.status_code
    if status == 404:
        return no_such_model(target.public_name)
    if status in (429, 503):
        return Unavailable(message, code=code or "slow_down", headers={"retry-after": RETRY_AFTER_S})
    if status < 500:
        return InvalidRequest(message, param=param if isinstance(param, str) else None, code=code)
    return TuneryError("The engine had an error while it worked on your request; its log says more.")


def detail_of(response: httpx.Response) -> dict:
    try:
        body = response.json()
    except ValueError:
        return {}
    error = body.get("error", body) if isinstance(body, dict) else {}
    return error if isinstance(error, dict) else {"message": error}
