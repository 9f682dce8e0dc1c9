"""Chat completions on the wire: `functions`, which came before `tools`, and the chunks of a stream as one answer.

Legacy functions are served as tools and answered in their own form: no engine knows them.
"""

import re
from typing import Any

from tunery.domain.json_body import as_list, as_object

Json = dict[str, Any]


def is_legacy(body: Json) -> bool:
    return bool(body.get("functions"))


def as_tools(body: Json) -> Json:
    """The same request with `tools`. A model of that time made one call at a time."""
    rest = {name: value for name, value in body.items() if name not in ("functions", "function_call")}
    tools = [{"type": "function", "function": function} for function in body["functions"]]
    called: Json | str | None = body.get("function_call", "auto")
    choice = {"type": "function", "function": called} if isinstance(called, dict) else called
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


class Assembly:
    def __init__(self) -> None:
        self._head: Json = {}
        self._choices: dict[int, Json] = {}
        self._usage: Json | None = None

    def add(self, chunk: Json) -> None:
        self._head = self._head or {key: chunk[key] for key in ("id", "created", "model") if key in chunk}
        self._usage = chunk.get("usage") or self._usage
        for part in chunk.get("choices", ()):
            self._add_choice(part)

    def _add_choice(self, part: Json) -> None:
        index = part.get("index", 0)
        choice: Json = self._choices.setdefault(
            index,
            {"index": index, "message": {"role": "assistant", "content": None, "refusal": None}, "logprobs": None},
        )
        choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
        if part.get("logprobs"):
            known = as_object(choice["logprobs"])
            said = as_list(known.get("content")) + as_list(part["logprobs"].get("content"))
            choice["logprobs"] = {"refusal": None, **known, "content": said}
        delta: Json = part.get("delta", {})
        message: Json = choice["message"]
        if delta.get("content"):
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls") or ():
            _add_call(message.setdefault("tool_calls", []), call)
        if delta.get("function_call"):
            _join(message.setdefault("function_call", {"name": "", "arguments": ""}), delta["function_call"])

    def result(self) -> Json:
        """The completion as it would have been without streaming."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {"object": "chat.completion", **self._head, "choices": choices, "usage": self._usage}


def _add_call(calls: list[Json], part: Json) -> None:
    index: int = part.get("index", 0)
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[index]
    call["id"] = part.get("id") or call["id"]
    _join(as_object(call["function"]), as_object(part.get("function")))


def _join(call: Json, part: Json) -> None:
    call["name"] += part.get("name") or ""
    call["arguments"] += part.get("arguments") or ""
