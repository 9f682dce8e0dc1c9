"""JSON Schemas as clients send them with tools and response formats: where they stand, and how large they may be.

A schema becomes a grammar that is consulted for every token. What that costs is bounded here, before any of it is
spent. What OpenAI lets strict schemas have (5,000 properties, 1,000 enum values, 120,000 characters) is within bounds.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunery.domain.errors import InvalidRequest
from tunery.domain.json_body import as_list, as_object
from tunery.texts import say

# Of all schemas of one request together.
MAX_PROPERTIES = 5_000
MAX_ENUM_VALUES = 10_000
MAX_CHARACTERS = 250_000  # of names, patterns, enum and const values
MAX_NODES = 20_000  # objects and arrays
# Of one schema. Every property that may be left out is a branch of the grammar's next step.
MAX_OPTIONAL_PROPERTIES = 400  # of one object
MAX_NAME_PATTERNS = 50  # of one object: each is compared with each
MAX_DEPTH = 100  # objects and arrays inside each other
MAX_TEXT = 5_000  # characters of one name, pattern or value: a step of the grammar reads it from its start
MAX_REPEATS = 10_000  # of a pattern's part, repetitions inside repetitions multiplied

_BRACES = re.compile(r"\{(\d{1,9})?(?:(,)(\d{1,9})?)?\}")


@dataclass(frozen=True)
class RequestSchema:
    """One schema of a request."""

    owner: str  # as errors name it: `function 'get_weather'`
    param: str
    schema: Any
    is_strict: bool = False

    def invalid(self, problem: str) -> InvalidRequest:
        code = "invalid_json_schema" if self.param == "response_format" else "invalid_function_parameters"
        return InvalidRequest(
            say("error.invalid_schema", owner=self.owner, problem=problem), param=self.param, code=code
        )


def function_schema(function: Mapping[str, Any], path: str) -> RequestSchema:
    """`path`: where the function stands in the request."""
    strict = function.get("strict") is True
    return RequestSchema(f"function {function.get('name')!r}", f"{path}.parameters", function.get("parameters"), strict)


def format_schema(wanted: Mapping[str, Any]) -> RequestSchema:
    """`wanted`: the `json_schema` of a response format."""
    strict = wanted.get("strict") is True
    return RequestSchema(f"response_format {wanted.get('name')!r}", "response_format", wanted.get("schema"), strict)


def request_schemas(body: Mapping[str, Any]) -> Iterator[RequestSchema]:
    """Every schema of a chat request as it came, whatever its shape: what is none is left to who parses it."""
    for name in ("tools", "functions"):
        for index, item in enumerate(as_list(body.get(name))):
            function = as_object(item).get("function") if name == "tools" else item
            if isinstance(function, dict):
                path = f"tools[{index}].function" if name == "tools" else f"functions[{index}]"
                yield function_schema(as_object(function), path)
    schema = as_object(body.get("response_format")).get("json_schema")
    if isinstance(schema, dict):
        yield format_schema(as_object(schema))


def check_cost(schemas: Iterable[RequestSchema]) -> None:
    """Raises InvalidRequest that names the limit which a schema, or all of them together, go beyond."""
    total = _Total()
    for schema in schemas:
        _count(schema, total)


@dataclass
class _Total:
    """Of the schemas seen so far."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_LIMITS, 0))

    def add(self, schema: RequestSchema, what: str, number: int) -> None:
        self.counts[what] += number
        if self.counts[what] > _LIMITS[what]:
            raise _beyond(schema, f"{what} of all schemas of a request", _LIMITS[what])


_LIMITS = {
    "properties and definitions": MAX_PROPERTIES,
    "enum values": MAX_ENUM_VALUES,
    "characters in names, patterns, enum and const values": MAX_CHARACTERS,
    "objects and arrays": MAX_NODES,
}


# Keywords whose value maps names to schemas, and those whose value is data.
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DATA = ("enum", "const")


def _count(schema: RequestSchema, total: _Total) -> None:
    """Walks without recursion: how deep it goes is one of the things that are bounded."""
    waiting: list[tuple[Any, str, int]] = [(schema.schema, "schema", 1)]
    while waiting:
        node, kind, depth = waiting.pop()
        if isinstance(node, str) and kind == "data":
            _text(schema, node, total)
        if not isinstance(node, dict | list):
            continue
        total.add(schema, "objects and arrays", 1)
        if depth > MAX_DEPTH:
            raise _beyond(schema, "levels of objects and arrays inside each other", MAX_DEPTH)
        if isinstance(node, list):
            waiting += [(item, kind, depth + 1) for item in as_list(node)]
            continue
        members = as_object(node)
        if kind == "schema":
            _measure(schema, members, total)
            waiting += [(value, _kind(key), depth + 1) for key, value in members.items()]
        else:
            _names(schema, members, total)
            waiting += [(value, "schema" if kind == "map" else kind, depth + 1) for value in members.values()]


def _kind(keyword: str) -> str:
    return "map" if keyword in _MAPS else "data" if keyword in _DATA else "schema"


def _measure(schema: RequestSchema, node: dict[str, Any], total: _Total) -> None:
    needed = {name for name in as_list(node.get("required")) if isinstance(name, str)}
    if len(as_object(node.get("properties")).keys() - needed) > MAX_OPTIONAL_PROPERTIES:
        raise _beyond(schema, "properties of one object that are not required", MAX_OPTIONAL_PROPERTIES)
    if len(as_object(node.get("patternProperties"))) > MAX_NAME_PATTERNS:
        raise _beyond(schema, "patterns for names of one object's properties", MAX_NAME_PATTERNS)
    total.add(schema, "enum values", len(as_list(node.get("enum"))))
    for pattern in (node.get("pattern"), *as_object(node.get("patternProperties"))):
        if isinstance(pattern, str):
            _text(schema, pattern, total)
            if repeats(pattern) > MAX_REPEATS:
                raise _beyond(
                    schema, "repetitions that a pattern asks for, those inside others multiplied", MAX_REPEATS
                )


def _names(schema: RequestSchema, properties: dict[str, Any], total: _Total) -> None:
    total.add(schema, "properties and definitions", len(properties))
    for name in properties:
        _text(schema, name, total)


def _text(schema: RequestSchema, text: str, total: _Total) -> None:
    if len(text) > MAX_TEXT:
        raise _beyond(schema, "characters of one name, pattern or value", MAX_TEXT)
    total.add(schema, "characters in names, patterns, enum and const values", len(text))


def _beyond(schema: RequestSchema, what: str, limit: int) -> InvalidRequest:
    return schema.invalid(f"it goes beyond the limit of {limit:,} {what}.")


def repeats(pattern: str) -> int:
    """How often the most repeated part of a regular expression is repeated: 6 in `(a{2}b){3}`.

    One look at each character. What is no repetition to a regular expression may be counted, never the other way.
    """
    most = 1
    inside = [1]  # of each group that is open: the most of its parts
    last = 1  # of the part that ended just now: what a repetition after it multiplies
    position = 0
    while position < len(pattern):
        char = pattern[position]
        braces = _BRACES.match(pattern, position) if char == "{" else None
        if char == "[":
            last, position = 1, _class_end(pattern, position)
        elif braces and (braces[1] or braces[3]):
            last *= max(1, int(braces[3] or braces[1]))
            inside[-1] = max(inside[-1], last)
            position = braces.end()
        elif char == "(":
            inside.append(1)
            position += 1
        elif char == ")" and len(inside) > 1:
            last = inside.pop()
            inside[-1] = max(inside[-1], last)
            position += 1
        else:
            last = 1
            position += 2 if char == "\\" else 1
        most = max(most, inside[-1])
        if most > MAX_REPEATS:
            break
    return most


def _class_end(pattern: str, start: int) -> int:
    """Past the `]` of a class such as `[^)\\]]`."""
    position = start + 1
    position += pattern.startswith("^", position)
    position += pattern.startswith("]", position)
    while position < len(pattern) and pattern[position] != "]":
        position += 2 if pattern[position] == "\\" else 1
    return position + 1
