"""What a conversation must look like: roles, keys, contents, weights, and calls of tools with their results."""

import json
import re
from typing import Any

from tunery.datasets.problems import Findings, shown
from tunery.texts import say

KEYS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {"role", "content", "name", "tool_calls", "function_call", "refusal", "weight"},
    "tool": {"role", "content", "tool_call_id", "name"},
    "function": {"role", "content", "name"},
}
_NAME = re.compile(r"[^\s<|\\/>]{1,64}")


def check_messages(messages: Any, path: str, findings: Findings, tool_names: set[str] | None) -> None:
    """`tool_names`: the functions the example defines; None when their list is itself unusable."""
    if not isinstance(messages, list):
        findings.add("messages_not_a_list", path, say("problem.messages_not_a_list"))
        return
    if not messages:
        findings.add("messages_empty", path, say("problem.messages_empty"))
        return
    for index, message in enumerate(messages):
        check_message(message, f"{path}[{index}]", findings, tool_names)
    _check_results(messages, path, findings)


def check_message(message: Any, path: str, findings: Findings, tool_names: set[str] | None) -> None:
    if not isinstance(message, dict):
        findings.add("message_not_an_object", path, say("problem.message_not_an_object", message=shown(message)))
        return
    role = message.get("role")
    if role is None:
        findings.add("missing_role", path, say("problem.missing_role"))
        return
    if not isinstance(role, str) or role not in KEYS:
        findings.add(
            "unknown_role", f"{path}.role", say("problem.unknown_role", role=shown(role)), value=str(role)[:60]
        )
        return
    _check_keys(message, role, path, findings)
    _check_name(message, role, path, findings)
    _check_content(message, role, path, findings)
    if role == "assistant":
        _check_weight(message, path, findings)
        _check_calls(message, path, findings, tool_names)
    elif role == "tool" and not isinstance(message.get("tool_call_id"), str):
        findings.add("missing_tool_call_id", path, say("problem.missing_tool_call_id"))


def _check_keys(message: dict[str, Any], role: str, path: str, findings: Findings) -> None:
    for key in message.keys() - KEYS[role]:
        if key == "weight":
            findings.add(
                "weight_not_allowed", f"{path}.weight", say("problem.weight_not_allowed", role=role), value=key
            )
        elif key in ("tool_calls", "function_call"):
            findings.add(
                "tool_calls_not_allowed", f"{path}.{key}", say("problem.tool_calls_not_allowed", role=role), value=key
            )
        else:
            findings.add("message_extra_key", f"{path}.{key[:60]}", say("problem.extra_key", key=shown(key)), value=key)


def _check_name(message: dict[str, Any], role: str, path: str, findings: Findings) -> None:
    name = message.get("name")
    if name is None:
        if role == "function":
            findings.add("missing_function_name", path, say("problem.missing_function_name"))
    elif not isinstance(name, str) or not _NAME.fullmatch(name):
        findings.add("invalid_name", f"{path}.name", say("problem.invalid_name", name=shown(name)))


def _check_content(message: dict[str, Any], role: str, path: str, findings: Findings) -> None:
    content = message.get("content")
    stands_alone = role == "assistant" and bool(message.keys() & {"tool_calls", "function_call", "refusal"})
    if content is None:
        if not stands_alone:
            findings.add("missing_content", path, say("problem.missing_content", role=role))
    elif isinstance(content, list):
        if not content and not stands_alone:
            findings.add("empty_content", f"{path}.content", say("problem.empty_parts"))
        for index, part in enumerate(content):
            _check_part(part, role, f"{path}.content[{index}]", findings)
    elif not isinstance(content, str):
        findings.add("content_not_text", f"{path}.content", say("problem.content_not_text", content=shown(content)))
    elif role == "assistant" and not content.strip() and not stands_alone:
        findings.add("empty_content", f"{path}.content", say("problem.empty_answer"))


def _check_part(part: Any, role: str, path: str, findings: Findings) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image_url":
        findings.add("unsupported_vision", path, say("problem.unsupported_vision"))
    elif kind == "text" or (kind == "refusal" and role == "assistant"):
        if not isinstance(part.get(kind), str):
            findings.add("invalid_content_part", path, say("problem.part_without_text", kind=kind))
    else:
        what = say("problem.part_of_type", kind=shown(kind)) if kind is not None else shown(part)
        findings.add("invalid_content_part", path, say("problem.part_not_text", what=what))


def _check_weight(message: dict[str, Any], path: str, findings: Findings) -> None:
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        findings.add("invalid_weight", f"{path}.weight", say("problem.invalid_weight", weight=shown(weight)))


def _check_calls(message: dict[str, Any], path: str, findings: Findings, tool_names: set[str] | None) -> None:
    calls = message.get("tool_calls")
    if calls is not None:
        if not isinstance(calls, list) or not calls:
            findings.add("invalid_tool_call", f"{path}.tool_calls", say("problem.tool_calls_not_a_list"))
            return
        for index, call in enumerate(calls):
            _check_call(call, f"{path}.tool_calls[{index}]", findings, tool_names)
    legacy = message.get("function_call")
    if legacy is not None:
        _check_function(legacy, f"{path}.function_call", findings, tool_names)
    if message.get("refusal") is not None and not isinstance(message["refusal"], str):
        findings.add("content_not_text", f"{path}.refusal", say("problem.refusal_not_text"))


def _check_call(call: Any, path: str, findings: Findings, tool_names: set[str] | None) -> None:
    if not isinstance(call, dict) or call.keys() - {"id", "type", "function"}:
        findings.add("invalid_tool_call", path, say("problem.call_extra_key"))
        return
    if not isinstance(call.get("id"), str) or not call["id"]:
        findings.add("invalid_tool_call", path, say("problem.call_without_id"))
    if call.get("type") != "function":
        findings.add("invalid_tool_call", path, say("problem.call_not_function"))
    _check_function(call.get("function"), f"{path}.function", findings, tool_names)


def _check_function(function: Any, path: str, findings: Findings, tool_names: set[str] | None) -> None:
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name or function.keys() - {"name", "arguments"}:
        findings.add("invalid_tool_call", path, say("problem.call_keys"))
        return
    if tool_names is not None and name not in tool_names:
        findings.add("undefined_tool", path, say("problem.undefined_tool", name=shown(name)), value=name)
    arguments = function.get("arguments")
    if not isinstance(arguments, str) or not _is_json_object(arguments):
        findings.add(
            "arguments_not_json", f"{path}.arguments", say("problem.arguments_not_json", arguments=shown(arguments))
        )


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _check_results(messages: list[Any], path: str, findings: Findings) -> None:
    """Every call has its result before anybody else speaks, and every result its call."""
    waiting: set[str] = set()
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        if message.get("role") == "tool":
            if isinstance(ident := message.get("tool_call_id"), str):
                if ident not in waiting:
                    findings.add(
                        "unknown_tool_call_id",
                        f"{path}[{index}]",
                        say("problem.unknown_tool_call_id", ident=shown(ident)),
                    )
                waiting.discard(ident)
            continue
        if waiting:
            missing = ", ".join(sorted(waiting))
            findings.add(
                "missing_tool_result", f"{path}[{index}]", say("problem.missing_tool_result", missing=shown(missing))
            )
        waiting = _call_ids(message)


def _call_ids(message: dict[str, Any]) -> set[str]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return set()
    return {call["id"] for call in calls if isinstance(call, dict) and isinstance(call.get("id"), str)}
