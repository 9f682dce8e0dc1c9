"""What pydantic finds wrong with a request, in the words and codes of OpenAI's parameter errors."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal

from tunery.domain.errors import InvalidRequest
from tunery.texts import say

Bound = Literal["ge", "gt", "le", "lt"]
Problem = Any  # pydantic's ErrorDetails, or FastAPI's dict of the same keys

SOURCES = frozenset({"body", "query", "path", "header"})
# What pydantic calls the branches of unions: types, the tags of graders, and the models of tool choices.
BRANCHES = frozenset(
    {
        *("int", "float", "str", "bool", "constrained-int", "constrained-float", "constrained-str"),
        *("string_check", "text_similarity", "score_model", "label_model", "python", "multi"),
        "TextPart",
        *("NamedTool", "AllowedToolChoice"),
    }
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

GIVEN: dict[Any, str] = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}

# pydantic's type of error -> which bound it names
BOUNDS: dict[str, Bound] = {
    "greater_than_equal": "ge",
    "greater_than": "gt",
    "less_than_equal": "le",
    "less_than": "lt",
}
LENGTHS = {
    "string_too_short": ("string_below_min_length", "min_length"),
    "string_too_long": ("string_above_max_length", "max_length"),
    "too_short": ("array_below_min_length", "min_length"),
    "too_long": ("array_above_max_length", "max_length"),
}


def from_problems(problems: Sequence[Problem]) -> InvalidRequest:
    """One error for all of pydantic's: the first, or where a union was missed, that of the branch that was meant.

    Where no branch was meant, every type that it would have taken.
    """
    problem = _most_telling(problems)
    param = _param(problem)
    same = [each for each in problems if _param(each) == param]
    expected = [words for each in same if (words := _type(each))]
    if len(expected) < 2 or _type(problem) is None:
        return from_problem(problem)
    literals = [each for each in same if each["type"] == "literal_error"]
    others = {each["type"] for each in same} - {"literal_error"}
    if literals and isinstance(problem["input"], str) and others <= {"model_type", "dict_type"}:
        return from_problem(literals[0])  # a mode or an object: a text is one of the modes, misspelt
    return wrong_type(param, reduce(_or, dict.fromkeys(expected)), problem.get("input"))


def from_problem(problem: Problem) -> InvalidRequest:
    kind, context = problem["type"], problem.get("ctx", {})
    param = _param(problem) or None
    if kind == "missing":
        return _missing(param)
    if kind == "extra_forbidden":
        return InvalidRequest(say("error.unknown_parameter", param=param), param=param, code="unknown_parameter")
    if kind in BOUNDS:
        return out_of_bounds(param, problem.get("input"), BOUNDS[kind], context[BOUNDS[kind]])
    if kind == "too_long" and isinstance(problem.get("input"), dict):
        message = say("error.too_many_properties", param=param, bound=context["max_length"], size=len(problem["input"]))
        return InvalidRequest(message, param=param, code="object_above_max_properties")
    if kind in LENGTHS:
        code, bound = LENGTHS[kind]
        size = {"size": context["actual_length"]} if kind == "too_long" else {}
        message = say(f"error.length.{kind}", param=param, bound=context[bound], **size)
        return InvalidRequest(message, param=param, code=code)
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        supported = _alternatives(context.get("expected") or context.get("expected_tags"))
        if problem.get("input") is None and "tag" not in context:
            return wrong_type(param, supported, problem.get("input"))
        value = repr(str(context.get("tag", problem.get("input")))[:200])
        message = say("error.value_not_supported", value=value, supported=supported)
        return InvalidRequest(message, param=param, code="invalid_value")
    if kind in TYPES:
        return wrong_type(param, say(f"type.{TYPES[kind]}"), problem.get("input"))
    reason = _reason(problem)
    message = (
        say("error.invalid_param", param=param, reason=reason) if param else say("error.invalid_body", reason=reason)
    )
    return InvalidRequest(message, param=param, code="invalid_value")


def out_of_bounds(param: str | None, value: Any, bound: Bound, limit: float) -> InvalidRequest:
    """A number that should be at or beyond the limit as `bound` says. A decimal is a float, also without a fraction."""
    kind = "integer" if isinstance(value, int) else "decimal"
    code = f"{kind}_{'below_min' if bound in ('ge', 'gt') else 'above_max'}_value"
    message = say(f"error.{code}.{bound}", param=param, bound=limit, value=repr(value))
    return InvalidRequest(message, param=param, code=code)


def dotted(location: tuple[int | str, ...]) -> str:
    """`('body', 'method', 'dpo', 'beta')` as `method.dpo.beta`, without the branches of unions."""
    text = ""
    for part in location[1:] if location[:1] and location[0] in SOURCES else location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in BRANCHES and part.replace("_", "").replace("-", "").isalnum():
            text += f".{part}" if text else part
    return text


def _most_telling(problems: Sequence[Problem]) -> Problem:
    """Of the first and those within the same parameter: the deepest, then one that is not about the type."""
    first = _param(problems[0])
    within = [each for each in problems if _param(each) == first or _param(each).startswith((f"{first}.", f"{first}["))]
    return max(within, key=lambda each: (_param(each).count(".") + _param(each).count("["), _type(each) is None))


def _param(problem: Problem) -> str:
    return dotted(tuple(problem["loc"]))


def _type(problem: Problem) -> str | None:
    if problem["type"] == "literal_error":
        return _alternatives(problem["ctx"]["expected"])
    return say(f"type.{TYPES[problem['type']]}") if problem["type"] in TYPES else None


def _alternatives(expected: str) -> str:
    """pydantic's list of values, `'a', 'b' or 'c'`."""
    *most, last = expected.rsplit(" or ", 1)
    return _or(most[0], last) if most else last


def _or(one: str, other: str) -> str:
    return say("type.or", one=one, other=other)


def wrong_type(param: str | None, types: str, value: Any) -> InvalidRequest:
    """`types`: in words, what `value` should have been."""
    given = say(f"type.{GIVEN.get(type(value), 'null')}")
    if param is None:
        return InvalidRequest(say("error.wrong_body_type", types=types, given=given), code="invalid_type")
    return InvalidRequest(
        say("error.wrong_type", param=param, types=types, given=given), param=param, code="invalid_type"
    )


def _reason(problem: Problem) -> str:
    """What a check of ours said, as it was raised; else pydantic's words."""
    if problem["type"] == "string_pattern_mismatch":
        return say("error.pattern", pattern=problem["ctx"]["pattern"])
    raised = problem.get("ctx", {}).get("error")
    return raised.args[0] if isinstance(raised, ValueError) and raised.args else str(raised or problem["msg"])


def _missing(param: str | None) -> InvalidRequest:
    if param is None:
        return InvalidRequest(say("error.no_body"), code="missing_required_parameter")
    return InvalidRequest(say("error.missing_parameter", param=param), param=param, code="missing_required_parameter")
