"""`functions` and `function_call`, which came before `tools`: served as tools, answered in their own form."""

import re
from typing import Any

Json = dict[str, Any]


def is_legacy(body: Json) -> bool:
    return bool(body.get("functions"))


def as_tools(body: Json) -> Json:
    """The same request with `tools`. A model of that time made one call at a time."""
    rest = {name: value for name, value in body.items() if name not in ("functions", "function_call")}
    tools = [{"type": "function", "function": function} for function in body["functions"]]
    choice = body.get("function_call", "auto")
    if isinstance(choice, dict):
        choice = {"type": "function", "function": choice}
    return {**rest, "tools": tools, "tool_choice": choice, "parallel_tool_calls": False}


def own_param(param: str | None) -> str | None:
    """What the client called the parameter that an error of the request with `tools` names."""
    if param == "tool_choice":
        return "function_call"
    place = re.fullmatch(r"tools\[(\d+)\](?:\.function)?(.*)", param or "")
    return f"functions[{place[1]}]{place[2]}" if place else param


def as_function_call(answer: Json) -> Json:
    """An answer or a chunk of one, its tool calls turned into `function_call`."""
    return {**answer, "choices": [_choice(choice) for choice in answer.get("choices", ())]}


def _choice(choice: Json) -> Json:
    changed = dict(choice)
    for part in ("message", "delta"):
        if part in changed:
            changed[part] = _message(changed[part])
    if changed.get("finish_reason") == "tool_calls":
        changed["finish_reason"] = "function_call"
    return changed


def _message(message: Json) -> Json:
    calls = message.get("tool_calls")
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "function_call": calls[0]["function"]} if calls else rest
