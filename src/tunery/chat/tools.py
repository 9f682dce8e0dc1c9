"""How tools stand in a prompt when the base model's chat template does not know them.

The form is the one of Hermes and Qwen, so engines that parse `hermes` tool calls understand it too:

- the definitions follow the system message, one JSON object a line between `<tools>` and `</tools>`;
- a call of the assistant is `<tool_call>`, a line `{"name": …, "arguments": {…}}`, `</tool_call>`, after its text;
- results are a user turn of `<tool_response>` blocks, in the order of the tool messages.

Training renders with this file and serving both renders and parses with it: what a model learned to write is what
is read back.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunery.chat.examples import Message, Tool

_MAX_ENCODINGS = 4
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"
_CALL_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)(?P<end>"?)')
_ARGUMENTS = re.compile(r'\s*,\s*"arguments"\s*:\s*')
RESPONSE_OPEN, RESPONSE_CLOSE = "<tool_response>", "</tool_response>"

_INTRODUCTION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{definitions}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""

FORM = "".join((_INTRODUCTION, CALL_OPEN, CALL_CLOSE, RESPONSE_OPEN, RESPONSE_CLOSE))
"""All that this form writes of its own."""


@dataclass(frozen=True)
class ToolCall:
    name: str
    arguments: str  # JSON text, as OpenAI gives it


def introduce(tools: list[Tool]) -> str:
    """The part of the system message that defines the tools."""
    definitions = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return _INTRODUCTION.format(definitions=definitions)


def write_call(name: str, arguments: Any) -> str:
    """One call as the model shall write it. Arguments that are no JSON stay a string: nothing is lost."""
    body = json.dumps({"name": name, "arguments": read_arguments(arguments)}, ensure_ascii=False)
    return f"{CALL_OPEN}\n{body}\n{CALL_CLOSE}"


def read_arguments(given: Any) -> Any:
    """The value of a call's arguments, however they came: as OpenAI's JSON text, as an object, encoded twice, empty.
    Text that means no object stays as it is."""
    if not isinstance(given, str):
        return given if given is not None else {}
    text = arguments_text(given)
    try:
        return json.loads(given if text is None else text)
    except (ValueError, RecursionError):
        return given


def arguments_text(given: Any) -> str | None:
    """JSON text of the object that a call's arguments mean: an object, one encoded several times, or nothing at all.
    None: they mean no object. Text that is right comes back as it is, letter for letter."""
    if isinstance(given, dict):
        return json.dumps(given, ensure_ascii=False)
    for _ in range(_MAX_ENCODINGS):
        if is_absent(given) or (isinstance(given, str) and given.isspace()):
            return "{}"
        if not isinstance(given, str):
            return None
        text = given
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if isinstance(given, dict):
            return text
    return None


def is_absent(value: Any) -> bool:
    """null, empty, or a structure of nothing but such: what a table writes for one that a row does not have."""
    if isinstance(value, dict):
        return all(is_absent(item) for item in value.values())
    return value is None or value == "" or (isinstance(value, list) and all(is_absent(item) for item in value))


def with_tools(messages: list[Message], tools: list[Tool] | None) -> list[Message]:
    """The same conversation as plain messages of role and text, tools and their results written out.

    `messages` have text contents only (`messages.plain`). A conversation without tools comes back as it is.
    """
    written = _written(messages)
    if not tools:
        return written
    introduction = introduce(tools)
    if written and written[0]["role"] == "system":
        system = f"{written[0]['content']}\n\n{introduction}" if written[0]["content"] else introduction
        return [{"role": "system", "content": system}, *written[1:]]
    return [{"role": "system", "content": introduction}, *written]


def _written(messages: list[Message]) -> list[Message]:
    written: list[Message] = []
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(f"{RESPONSE_OPEN}\n{message['content']}\n{RESPONSE_CLOSE}")
            continue
        if results:
            written.append({"role": "user", "content": "\n".join(results)})
            results = []
        written.append({"role": message["role"], "content": _with_calls(message)})
    if results:
        written.append({"role": "user", "content": "\n".join(results)})
    return written


def _with_calls(message: Message) -> str:
    calls = [
        write_call(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []
    ]
    return "\n".join([message["content"], *calls] if message["content"] else calls) if calls else message["content"]


def parse_calls(text: str) -> tuple[str, list[ToolCall]]:
    """The text before the first call, and the calls.

    Text that opens a call but holds no such object stays text: a model that talks about tools is not calling one.
    """
    content, calls, rest = "", [], text
    while (start := rest.find(CALL_OPEN)) >= 0:
        found = parse_call(rest[start:])
        if found is None:
            return text, []
        if not calls:
            content = rest[:start]
        calls.append(found[0])
        rest = rest[start + found[1] :]
    return (content.rstrip(), calls) if calls else (text, [])


def parse_call(text: str) -> tuple[ToolCall, int] | None:
    """The call that the text begins with, and where it ends: after its closing mark, or with the text.

    The object's own end counts, not the first closing mark, which may stand in an argument.
    """
    start = len(CALL_OPEN) + len(text[len(CALL_OPEN) :]) - len(text[len(CALL_OPEN) :].lstrip())
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    after = text[end:].lstrip()
    if after and not after.startswith(CALL_CLOSE):
        return None
    arguments = value.get("arguments", {})
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(value["name"], written), len(text) - len(after.removeprefix(CALL_CLOSE))


def parse_cut_call(body: str, names: Sequence[str]) -> ToolCall | None:
    """The call whose text breaks off: its name, and the arguments as far as they came.

    `body` follows the opening mark, `names` are the functions that may be called. Where it stops before the name is
    clear, the first that it may become stands for them: a call needs one of these names. None where it is none of them.
    """
    head = _CALL_HEAD.match(body)
    begun, is_whole = (head["name"], bool(head["end"])) if head else ("", False)
    able = [begun] if is_whole else [name for name in names if name.startswith(begun)]
    if not able:
        return None
    start = _ARGUMENTS.match(body, head.end()) if head and is_whole else None
    arguments = body[start.end() :] if start else ""
    try:
        _, end = json.JSONDecoder().raw_decode(arguments)
    except (ValueError, RecursionError):
        end = len(arguments)
    return ToolCall(able[0], arguments[:end])
