"""Turns a body into a typed request, and what is wrong with it into OpenAI's words."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from tunery.domain.errors import InvalidRequest
from tunery.domain.json_body import read_json
from tunery.serving.http.schemas import REFUSED

Wanted = TypeVar("Wanted", bound=BaseModel)

# What the api takes is at most half as large; written anew, its numbers may take more room.
MAX_BODY_BYTES = 16 * 1024 * 1024

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a decimal",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}
_JSON_NAMES = {str: "a string", int: "an integer", float: "a decimal", bool: "a boolean", list: "an array"}


async def read_body(request: Request) -> bytes:
    """Raises InvalidRequest (413) as soon as there is, or is to come, more than MAX_BODY_BYTES."""
    declared = request.headers.get("content-length", "")
    body = bytearray()
    if declared.isdecimal() and int(declared[:19]) > MAX_BODY_BYTES:
        raise _too_large()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> InvalidRequest:
    error = InvalidRequest(
        f"The request body is larger than {MAX_BODY_BYTES // 1024**2} MB, the most that the engine takes.",
        code="request_too_large",
    )
    error.status = 413
    return error


def parse(kind: type[Wanted], body: bytes) -> Wanted:
    """Raises InvalidRequest with the `param` and `code` that OpenAI gives."""
    document = read_json(body)
    if not isinstance(document, dict):
        raise InvalidRequest("We could not parse the JSON body of your request: it must be an object.")
    for name in REFUSED.keys() & document.keys():
        if document[name] is not None:
            raise unsupported(name, REFUSED[name])
    try:
        return kind.model_validate(document)
    except ValidationError as exc:
        raise _translate(_most_telling(exc.errors())) from exc


def unsupported(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"Unsupported parameter: {param!r} is not supported with this model. {why}",
        param=param,
        code="unsupported_parameter",
    )


def _most_telling(errors: list[ErrorDetails]) -> ErrorDetails:
    """Of a union's errors the one that went deepest, then one that is not about the type: the branch that was meant."""
    first = errors[0]["loc"][0] if errors[0]["loc"] else None
    same = [error for error in errors if error["loc"] and error["loc"][0] == first]
    return max(same, key=lambda error: (len(error["loc"]), error["type"] not in _EXPECTED), default=errors[0])


def _translate(error: ErrorDetails) -> InvalidRequest:
    kind, given = error["type"], error["input"]
    name = _path(error["loc"])
    limits = error.get("ctx", {})
    if kind == "missing":
        return _invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")
    if kind == "extra_forbidden":
        return _invalid(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    if kind in ("greater_than_equal", "less_than_equal"):
        return _out_of_range(name, given, limits, is_low=kind == "greater_than_equal")
    if kind == "literal_error":
        choices = limits["expected"].replace(" or ", ", ")
        return _invalid(f"Invalid value: {given!r}. Supported values are: {choices}.", name, "invalid_value")
    if kind in ("too_long", "too_short"):
        return _wrong_length(name, limits, is_long=kind == "too_long")
    if kind in _EXPECTED:
        got = _JSON_NAMES.get(type(given), "null" if given is None else "an object")
        return _invalid(
            f"Invalid type for '{name}': expected {_EXPECTED[kind]}, but got {got} instead.", name, "invalid_type"
        )
    return _invalid(f"Invalid '{name}': {error['msg']}.", name, "invalid_value")


def _out_of_range(name: str, given: Any, limits: dict[str, Any], *, is_low: bool) -> InvalidRequest:
    number = "integer" if isinstance(given, int) else "decimal"
    side, sign, limit = (
        ("below minimum", ">=", limits.get("ge")) if is_low else ("above maximum", "<=", limits.get("le"))
    )
    return _invalid(
        f"Invalid '{name}': {number} {side} value. Expected a value {sign} {limit}, but got {given} instead.",
        name,
        f"{number}_{'below_min' if is_low else 'above_max'}_value",
    )


def _wrong_length(name: str, limits: dict[str, Any], *, is_long: bool) -> InvalidRequest:
    size = limits.get("actual_length")
    if is_long:
        text = f"array too long. Expected an array with maximum length {limits['max_length']}"
        return _invalid(f"Invalid '{name}': {text}, but got {size} instead.", name, "array_above_max_length")
    text = f"empty array. Expected an array with minimum length {limits['min_length']}"
    return _invalid(f"Invalid '{name}': {text}, but got {size} instead.", name, "empty_array")


def _invalid(message: str, param: str, code: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code=code)


def _path(location: tuple[int | str, ...]) -> str:
    """`messages[0].role`. Names of a union's branches are no part of it."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part[0].islower() and part not in ("str", "int", "float", "bool"):
            path += f".{part}" if path else part
    return path
