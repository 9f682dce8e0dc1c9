"""OpenAI's messages reduced to what a chat template can see: a role, a text, and the calls of tools."""

from typing import Any

from tunery.chat.examples import Message, Tool
from tunery.chat.template import RenderError
from tunery.texts import say

_ROLES = {"developer": "system", "function": "tool"}


def plain(messages: list[Message]) -> list[Message]:
    """Roles system, user, assistant, tool; content a string. `name` and `weight` are not part of a prompt.

    Text parts are joined by a newline, as vLLM joins them. A refusal is the assistant's text.
    """
    return [_plain(message) for message in messages]


def _plain(message: Message) -> Message:
    role = message["role"]
    reduced: Message = {"role": _ROLES.get(role, role), "content": text_of(message)}
    calls = message.get("tool_calls") or legacy_calls(message)
    if calls:
        reduced["tool_calls"] = calls
    if message.get("tool_call_id"):
        reduced["tool_call_id"] = message["tool_call_id"]
    return reduced


def text_of(message: Message) -> str:
    content = message.get("content")
    if not content:
        return message.get("refusal") or ""
    if isinstance(content, str):
        return content
    return "\n".join(_text_of_part(part) for part in content)


def _text_of_part(part: dict[str, Any]) -> str:
    text = part.get("text", part.get("refusal"))
    if not isinstance(text, str):
        kind = part.get("type")
        lacks_it = kind in ("text", "refusal")
        message = say("problem.part_without_text", kind=kind) if lacks_it else say("error.text_only", type=kind)
        raise RenderError(message, param="messages")
    return text


def legacy_calls(message: Message) -> list[dict[str, Any]]:
    """`function_call` of the first function API as a list of one tool call."""
    call = message.get("function_call")
    return [{"id": "call_0", "type": "function", "function": call}] if call else []


def legacy_tools(functions: list[dict[str, Any]] | None) -> list[Tool] | None:
    """`functions` of the first function API as `tools`."""
    return [{"type": "function", "function": function} for function in functions] if functions else None
