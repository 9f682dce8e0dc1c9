"""The one place that turns an error into OpenAI's envelope."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tunery.api import wayfinding
from tunery.domain.errors import InvalidRequest, ServerFault, TuneryError
from tunery.texts import say

MAX_PATH = 500  # of it is said again

SOURCES = frozenset({"body", "query", "path", "header"})
# What pydantic calls the branches of unions: types, and the tags of graders.
BRANCHES = frozenset(
    {"int", "float", "str", "bool", "string_check", "text_similarity", "score_model", "python", "multi"}
)

# pydantic's type of error -> what would have been right: a key of `type.`
TYPES = {
    "string_type": "string",
    "int_type": "integer",
    "int_parsing": "integer",
    "int_from_float": "integer",
    "int_parsing_size": "integer_of_size",
    "float_type": "number",
    "float_parsing": "number",
    "finite_number": "finite_number",
    "bool_type": "boolean",
    "bool_parsing": "boolean",
    "list_type": "array",
    "dict_type": "object",
    "model_type": "object",
    "model_attributes_type": "object",
    "string_unicode": "unicode",
}

# pydantic's type of error -> (our code, which bound it names)
BOUNDS = {
    "greater_than_equal": ("below_min_value", "ge"),
    "greater_than": ("below_min_value", "gt"),
    "less_than_equal": ("above_max_value", "le"),
    "less_than": ("above_max_value", "lt"),
}
LENGTHS = {
    "string_too_short": ("string_below_min_length", "min_length"),
    "string_too_long": ("string_above_max_length", "max_length"),
    "too_short": ("array_below_min_length", "min_length"),
    "too_long": ("array_above_max_length", "max_length"),
}


def envelope(error: TuneryError) -> JSONResponse:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers | error.text_header())


def dotted(location: tuple[int | str, ...]) -> str:
    """`('body', 'method', 'dpo', 'beta')` as `method.dpo.beta`, without the branches of unions."""
    text = ""
    for part in location[1:] if location[:1] and location[0] in SOURCES else location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in BRANCHES and part.replace("_", "").replace("-", "").isalnum():
            text += f".{part}" if text else part
    return text


def from_problems(problems: Sequence[dict[str, Any]]) -> InvalidRequest:
    """One error for all of pydantic's: the first, or where a union was missed, every type it would have taken."""
    first = problems[0]
    param = dotted(tuple(first["loc"]))
    expected = [words for problem in problems if dotted(tuple(problem["loc"])) == param and (words := _type(problem))]
    if len(expected) < 2:
        return from_validation(first)
    return _wrong_type(param, reduce(_or, dict.fromkeys(expected)))


def _type(problem: dict[str, Any]) -> str | None:
    if problem["type"] == "literal_error":
        return _alternatives(problem["ctx"]["expected"])
    return say(f"type.{TYPES[problem['type']]}") if problem["type"] in TYPES else None


def _alternatives(expected: str) -> str:
    """pydantic's list of values, `'a', 'b' or 'c'`."""
    *most, last = expected.rsplit(" or ", 1)
    return _or(most[0], last) if most else last


def _or(one: str, other: str) -> str:
    return say("type.or", one=one, other=other)


def _wrong_type(param: str | None, types: str) -> InvalidRequest:
    return InvalidRequest(say("error.wrong_type", param=param, types=types), param=param, code="invalid_type")


def from_validation(problem: dict[str, Any]) -> InvalidRequest:
    """The first of pydantic's problems in the words of OpenAI's own parameter errors."""
    kind, context = problem["type"], problem.get("ctx", {})
    param = dotted(tuple(problem["loc"])) or None
    if kind == "missing":
        return _missing(problem, param)
    if kind == "extra_forbidden":
        return InvalidRequest(say("error.unknown_parameter", param=param), param=param, code="unknown_parameter")
    if kind in BOUNDS:
        suffix, bound = BOUNDS[kind]
        number = "integer" if isinstance(problem.get("input"), int) else "decimal"
        value = repr(problem.get("input"))
        message = say(f"error.bound.{kind}", param=param, bound=context[bound], value=value)
        return InvalidRequest(message, param=param, code=f"{number}_{suffix}")
    if kind in LENGTHS:
        code, bound = LENGTHS[kind]
        return InvalidRequest(say(f"error.length.{kind}", param=param, bound=context[bound]), param=param, code=code)
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        supported = _alternatives(context.get("expected") or context.get("expected_tags"))
        value = repr(str(context.get("tag", problem.get("input")))[:200])
        message = say("error.value_not_supported", value=value, supported=supported)
        return InvalidRequest(message, param=param, code="invalid_value")
    if kind in TYPES:
        return _wrong_type(param, say(f"type.{TYPES[kind]}"))
    return InvalidRequest(
        say("error.invalid_param", param=param, reason=_reason(problem)), param=param, code="invalid_value"
    )


def _reason(problem: dict[str, Any]) -> str:
    """What a check of ours said, as it was raised; else pydantic's words."""
    if problem["type"] == "string_pattern_mismatch":
        return say("error.pattern", pattern=problem["ctx"]["pattern"])
    raised = problem.get("ctx", {}).get("error")
    return raised.args[0] if isinstance(raised, ValueError) and raised.args else str(raised or problem["msg"])


def _missing(problem: dict[str, Any], param: str | None) -> InvalidRequest:
    if param is None:
        return InvalidRequest(say("error.no_body"), code="missing_required_parameter")
    return InvalidRequest(say("error.missing_parameter", param=param), param=param, code="missing_required_parameter")


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
