"""The JSON of a request, as api and engine read it: bounded in what it costs, before and after."""

from typing import Any, cast

import orjson

from tunery.domain.errors import InvalidRequest
from tunery.texts import say

MAX_VALUES = 200_000  # in one body: what holds the interpreter is their number, more than their bytes
MAX_DEPTH = 100  # JSON within JSON; the encoder that writes it again takes 254
BOM = b"\xef\xbb\xbf"


def read_json(raw: bytes) -> Any:
    """The document: valid Unicode, finite numbers, integers of 64 bits. Raises InvalidRequest."""
    if num_values(raw) > MAX_VALUES:
        raise InvalidRequest(say("error.too_many_values", most=MAX_VALUES), code="request_too_large")
    try:
        value = orjson.loads(raw.removeprefix(BOM))
    except orjson.JSONDecodeError as exc:
        found = say("error.not_json", reason=exc.msg[:100], line=exc.lineno, column=exc.colno)
        raise InvalidRequest(found) from exc
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and is_deep(value, MAX_DEPTH):
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


def is_deep(value: Any, most: int) -> bool:
    """Whether more than `most` objects and arrays lie inside each other. Walks level by level, not down the stack."""
    level = [value]
    for _ in range(most):
        level = [item for outer in level for item in (*as_object(outer).values(), *as_list(outer))]
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def as_object(value: Any) -> dict[str, Any]:
    """The value when it is a JSON object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value when it is a JSON array, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []
