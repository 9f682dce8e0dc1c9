"""Puts the chunks of a streamed chat completion together again, for a completion that is to be stored."""

from typing import Any

Json = dict[str, Any]


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
        choice = self._choices.setdefault(
            index,
            {"index": index, "message": {"role": "assistant", "content": None, "refusal": None}, "logprobs": None},
        )
        choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")
        if part.get("logprobs"):
            known = choice["logprobs"] or {"content": [], "refusal": None}
            choice["logprobs"] = {**known, "content": known["content"] + (part["logprobs"].get("content") or [])}
        delta, message = part.get("delta", {}), choice["message"]
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
    index = part.get("index", 0)
    while len(calls) <= index:
        calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
    calls[index]["id"] = part.get("id") or calls[index]["id"]
    _join(calls[index]["function"], part.get("function", {}))


def _join(call: Json, part: Json) -> None:
    call["name"] += part.get("name") or ""
    call["arguments"] += part.get("arguments") or ""
