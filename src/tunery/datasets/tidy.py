"""A row as its writer meant it, before the rules look at it: keys that hold nothing are absent, and a call's arguments
are JSON text of an object.

Tables fill every key of every row with null, and the SDK's `model_dump()` writes every field of its type.
"""

import json
from collections.abc import Set
from typing import Any

from tunery.chat.tools import arguments_text, is_absent
from tunery.datasets.problems import Findings
from tunery.texts import say

# Of a message: what it cannot do without, some roles more than others. Empty is wrong there, not absent.
_OF_MESSAGES = frozenset(("role", "content"))
_OF_ROLES = {"tool": _OF_MESSAGES | {"tool_call_id"}, "function": _OF_MESSAGES | {"name"}}
# What a server adds to its answer beside what the model wrote: no part of a conversation.
_ADDED_TO_ANSWERS = ("annotations",)
_OUTPUTS = frozenset(("preferred_output", "non_preferred_output", "preferred_completion", "non_preferred_completion"))
# What each format of a row cannot do without, in the order in which a row is told to be of one.
_FORMS = (frozenset(("messages",)), _OUTPUTS | {"input"}, frozenset(("prompt", "completion")))
# Of a tool and of a call: what they cannot do without.
_OF_TOOLS = frozenset(("id", "type", "function", "name"))
# What is in a function that is called, in one that is defined, and in a text part.
_OF_CALLS = frozenset(("name", "arguments"))
_OF_DEFINITIONS = {"name": str, "description": str, "parameters": dict, "strict": bool}
_OF_PARTS = frozenset(("type", "text"))
# Keywords of JSON Schema that may well be null.
_MAY_BE_NULL = frozenset(("default", "const"))
_SHOWN = 120


def tidy_row(row: dict[str, Any], findings: Findings) -> None:
    """Changes the row in place. What is not in OpenAI's form at all is left as it stands, for the rules to find."""
    has_messages = "messages" in row
    _drop_nulls(row)
    own = next((form for form in _FORMS if any(not is_absent(row.get(key)) for key in form)), None)
    if own is not None and not row.keys() <= own:
        _drop_absent(row, row.keys() - own)  # a table of several formats gives each row the columns of all
    if has_messages and not row:
        row["messages"] = None  # the one key it has is the one that is wrong
    prompt = row.get("input")
    if isinstance(prompt, dict):
        _drop_absent(prompt, prompt.keys() - {"messages"})
        _tidy_conversation(prompt, "input.", findings)
    schemas = _tidy_conversation(row, "", findings) if not isinstance(prompt, dict) else _schemas_of(prompt)
    for name in _OUTPUTS & row.keys():
        output = row[name]
        for index, message in enumerate(output if isinstance(output, list) else [output]):
            _tidy_message(message, f"{name}[{index}]", schemas, findings)


def _tidy_conversation(holder: dict[str, Any], path: str, findings: Findings) -> dict[str, Any]:
    for tool in _objects(holder.get("tools")):
        _drop_nulls(tool)
        if isinstance(tool.get("function"), dict):
            _drop_absent(tool, tool.keys() - _OF_TOOLS)  # `custom` of a tool of that type
            _tidy_definition(tool["function"])
    for function in _objects(holder.get("functions")):
        _tidy_definition(function)
    schemas = _schemas_of(holder)
    messages = holder.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            _tidy_message(message, f"{path}messages[{index}]", schemas, findings)
    return schemas


def _tidy_definition(function: dict[str, Any]) -> None:
    """An empty description or empty parameters say something; what is empty and of another type says nothing."""
    _drop_nulls(function)
    _drop_absent(function, {key for key in function if not isinstance(function[key], _OF_DEFINITIONS.get(key, ()))})
    if isinstance(function.get("parameters"), dict):
        function["parameters"] = _without_nulls(function["parameters"])


def _without_nulls(schema: Any) -> Any:
    """A JSON Schema without the keywords and properties that a table gave to all schemas of a file."""
    if isinstance(schema, dict):
        return {key: _without_nulls(value) for key, value in schema.items() if value is not None or key in _MAY_BE_NULL}
    return [_without_nulls(item) for item in schema] if isinstance(schema, list) else schema


def _schemas_of(holder: dict[str, Any]) -> dict[str, Any]:
    """The parameters of each function by its name."""
    functions = [tool.get("function") for tool in _objects(holder.get("tools"))]
    return {
        function["name"]: function.get("parameters")
        for function in [*functions, *_objects(holder.get("functions"))]
        if isinstance(function, dict) and isinstance(function.get("name"), str)
    }


def _tidy_message(message: Any, path: str, schemas: dict[str, Any], findings: Findings) -> None:
    if not isinstance(message, dict):
        return
    role = message.get("role")
    if role == "function" and "content" in message:
        message["content"] = message["content"] or ""  # null is what OpenAI's type gives for no result
    _drop_nulls(message)
    needed = _OF_ROLES.get(role, _OF_MESSAGES) if isinstance(role, str) else _OF_MESSAGES
    _drop_absent(message, message.keys() - needed)
    if role == "assistant":
        for key in _ADDED_TO_ANSWERS:
            if isinstance(message.get(key), list):
                del message[key]
    for part in _objects(message.get("content")):
        _drop_nulls(part)
        _drop_absent(part, part.keys() - _OF_PARTS)  # `image_url` of a part of that type
    for index, call in enumerate(_objects(message.get("tool_calls"))):
        _drop_absent(call, call.keys() - _OF_TOOLS)
        if isinstance(call.get("index"), int):  # of a call that was put together from a stream
            del call["index"]
        _tidy_arguments(call.get("function"), f"{path}.tool_calls[{index}].function", schemas, findings)
    _tidy_arguments(message.get("function_call"), f"{path}.function_call", schemas, findings)


def _tidy_arguments(function: Any, path: str, schemas: dict[str, Any], findings: Findings) -> None:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return
    _drop_absent(function, function.keys() - _OF_CALLS)  # `parameters` of a definition
    given = function.get("arguments")
    if isinstance(given, dict):
        given = _without_unset(given, schemas.get(function["name"]))
    text = arguments_text(given)
    if text is None or text == function.get("arguments"):
        return
    function["arguments"] = text
    right = json.dumps(text, ensure_ascii=False)
    right = right if len(right) <= _SHOWN else right[:_SHOWN] + "…"
    findings.add("arguments_not_text", f"{path}.arguments", say("problem.arguments_not_text", right=right))


def _without_unset(value: Any, schema: Any) -> Any:
    """Arguments as an object come from tables, which give each call the arguments of all: null is unset, unless the
    function's schema lets it be null."""
    below = schema if isinstance(schema, dict) else {}
    if isinstance(value, list):
        return [_without_unset(item, below.get("items")) for item in value]
    if not isinstance(value, dict):
        return value
    properties = given if isinstance(given := below.get("properties"), dict) else {}
    return {
        name: _without_unset(item, properties.get(name))
        for name, item in value.items()
        if item is not None or _allows_null(properties.get(name))
    }


def _allows_null(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    kinds, values = schema.get("type"), schema.get("enum")
    if kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or schema.get("nullable") is True:
        return True
    if (isinstance(values, list) and None in values) or ("const" in schema and schema["const"] is None):
        return True
    return any(_allows_null(option) for word in ("anyOf", "oneOf") for option in _objects(schema.get(word)))


def _objects(value: Any) -> list[dict[str, Any]]:
    """The items of a list that are objects; none of anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _drop_nulls(holder: dict[str, Any]) -> None:
    for key in [key for key, value in holder.items() if value is None]:
        del holder[key]


def _drop_absent(holder: dict[str, Any], keys: Set[str]) -> None:
    for key in keys & holder.keys():
        if is_absent(holder[key]):
            del holder[key]
