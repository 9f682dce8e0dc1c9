"""An engine's error → ours. vLLM puts its status in `code` and its own class names in `type`."""

import logging
from typing import Any

import orjson

from tunery.domain.errors import InvalidRequest, NotFound, TuneryError, Unavailable, no_such_model
from tunery.domain.json_body import as_object
from tunery.engines.resolve import Target
from tunery.texts import say

log = logging.getLogger(__name__)

RETRY_AFTER_S = "2"


class EngineLost(Unavailable):
    """It went away, or was silent for too long, while it worked on a request."""


def unavailable(message: str) -> Unavailable:
    return Unavailable(message, code="server_is_overloaded", headers={"retry-after": RETRY_AFTER_S})


def lost(exc: BaseException) -> EngineLost:
    log.warning("the engine was lost in the middle of a request: %r", exc)
    return EngineLost(
        say("error.engine_lost"),
        code="server_is_overloaded",
        headers={"retry-after": RETRY_AFTER_S},
    )


def not_served(target: Target) -> NotFound:
    """404 as for any model that cannot be used, and no 503: to try again would not help."""
    return NotFound(
        say("error.base_not_loaded", public_name=target.public_name, source=target.source),
        param="model",
        code="model_not_found",
    )


def engine_error(status: int, content: bytes, target: Target) -> TuneryError:
    """What the client is told. The engine's names for models are replaced by the one that the client used."""
    detail = detail_of(content)
    message = str(detail.get("message") or "") or say("error.engine_answered", status=status)
    if target.adapter is not None:
        message = message.replace(target.adapter.id, target.public_name)
    param, code = detail.get("param"), detail.get("code")
    code = code if isinstance(code, str) else None
    if "maximum context length" in message:
        code, param = "context_length_exceeded", param or "messages"
    if status == 404:
        return no_such_model(target.public_name)
    if status in (429, 503):
        return Unavailable(message, code=code or "slow_down", headers={"retry-after": RETRY_AFTER_S})
    if status < 500:
        return InvalidRequest(message, param=param if isinstance(param, str) else None, code=code)
    return TuneryError(say("error.engine_failed"))


def detail_of(content: bytes) -> dict[str, Any]:
    """The object that says what went wrong, as OpenAI and vLLM nest it; empty when the content is no JSON."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    error = as_object(body).get("error", as_object(body))
    return as_object(error) if isinstance(error, dict) else {"message": error}
