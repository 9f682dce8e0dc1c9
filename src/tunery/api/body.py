"""Request bodies: how large they may be, when JSON is read, and the base of every JSON body's schema: strict types, no
unknown keys, no character that a database cannot hold."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool

from tunery.domain.errors import InvalidRequest
from tunery.domain.json_body import read_json
from tunery.texts import say

MAX_UNDECLARED_BYTES = 8 * 1024  # before a key was seen, and wherever no route says more: forms of the dashboard
MAX_JSON_BYTES = 1024 * 1024  # of a route that does not say more
MAX_PROMPT_BYTES = 8 * 1024 * 1024  # a context of 128,000 tokens, each character escaped, many times over
INLINE_BYTES = 32 * 1024  # parsed sooner than a thread would begin
JSON_TYPE = "application/json"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def takes_up_to(max_bytes: int) -> Callable[[Endpoint], Endpoint]:
    """Declares that the body of this endpoint may be larger than MAX_JSON_BYTES."""

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.max_body_bytes = max_bytes  # type: ignore[attr-defined]
        return endpoint

    return declare


def max_bytes_of(endpoint: Callable[..., Any]) -> int | None:
    return getattr(endpoint, "max_body_bytes", None)


def too_large(max_bytes: int) -> InvalidRequest:
    size = f"{max_bytes // 1024**2} MB" if max_bytes >= 1024**2 else f"{max_bytes // 1024} KB"
    error = InvalidRequest(say("error.request_too_large", size=size), code="request_too_large")
    error.status = 413
    return error


class JsonRequest(Request):
    """Its body is JSON whatever its content type says: `curl -d` says that it is a form."""

    content_type: str | None

    @classmethod
    def of(cls, request: Request) -> "JsonRequest":
        sent = request.headers.get("content-type")
        if sent != JSON_TYPE:
            headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
            request.scope["headers"] = [*headers, (b"content-type", JSON_TYPE.encode())]
        made = cls(request.scope, request.receive)
        made.content_type = sent
        return made

    async def json(self) -> Any:
        """Raises InvalidRequest, which names the header where that may be what is wrong."""
        raw = await self.body()
        try:
            return read_json(raw) if len(raw) <= INLINE_BYTES else await run_in_threadpool(read_json, raw)
        except InvalidRequest as exc:
            if self.content_type is None or JSON_TYPE in self.content_type:
                raise
            raise InvalidRequest(
                say("error.sent_as", problem=exc.message, sent=self.content_type[:100], wanted=JSON_TYPE)
            ) from exc


Texts = Annotated[
    dict[str, Any],
    Field(description="Of each sentence above its `key` and `params`, to word it in another language."),
]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        if holds_nul(value):
            raise ValueError(say("error.no_nul"))
        return value


def no_nul(text: str) -> str:
    """Of a text that is searched for, or by."""
    if "\0" in text:
        raise ValueError(say("error.no_nul"))
    return text


def holds_nul(value: Any) -> bool:
    """True for U+0000 in any string or key: Postgres has no place for it where it searches."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(holds_nul(key) or holds_nul(item) for key, item in value.items())
    if isinstance(value, list):
        return any(holds_nul(item) for item in value)
    return False
