"""Request bodies: how large they may be, how JSON is read, and the base of every JSON body's schema: strict types, no
unknown keys, no character that a database cannot hold."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.concurrency import run_in_threadpool

from tunery.domain.errors import InvalidRequest
from tunery.texts import say

MAX_UNDECLARED_BYTES = 8 * 1024  # before a key was seen, and wherever no route says more: forms of the dashboard
MAX_JSON_BYTES = 1024 * 1024  # of a route that does not say more
MAX_PROMPT_BYTES = 8 * 1024 * 1024  # a context of 128,000 tokens, each character escaped, many times over
MAX_VALUES = 200_000  # in one body: what holds the interpreter is their number, more than their bytes
MAX_DEPTH = 100  # JSON within JSON; the encoder that writes it again takes 254
INLINE_BYTES = 32 * 1024  # parsed sooner than a thread would begin
BOM = b"\xef\xbb\xbf"
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
                f"{exc.message} It was sent with 'Content-Type: {self.content_type[:100]}'; "
                f"this route takes JSON: 'Content-Type: {JSON_TYPE}'."
            ) from exc


def read_json(raw: bytes) -> Any:
    """The document: valid Unicode, finite numbers, integers of 64 bits. Raises InvalidRequest."""
    if num_values(raw) > MAX_VALUES:
        raise InvalidRequest(say("error.too_many_values", most=MAX_VALUES), code="request_too_large")
    try:
        value = orjson.loads(raw.removeprefix(BOM))
    except orjson.JSONDecodeError as exc:
        found = say("error.not_json", reason=exc.msg[:100], line=exc.lineno, column=exc.colno)
        raise InvalidRequest(found) from exc
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and is_deep(value):
        raise InvalidRequest(say("error.nested_too_deep", most=MAX_DEPTH))
    return value


def num_values(raw: bytes) -> int:
    """An upper bound, by what begins or separates values; exact but for escapes when it would be too many."""
    bound = sum(raw.count(sign) for sign in (b",", b"[", b"{"))
    if bound <= MAX_VALUES:
        return bound
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside = b"".join(unescaped.split(b'"')[::2])  # of strings
    return sum(outside.count(sign) for sign in (b",", b"[", b"{"))


def is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        items = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


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


def without_nul(value: Any) -> Any:
    """The same with U+FFFD for U+0000, for texts that were served and are only kept: Postgres has no place for it."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {without_nul(key): without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nul(item) for item in value]
    return value


def holds_nul(value: Any) -> bool:
    """True for U+0000 in any string or key: Postgres cannot store it."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(holds_nul(key) or holds_nul(item) for key, item in value.items())
    if isinstance(value, list):
        return any(holds_nul(item) for item in value)
    return False
