"""Ollama's Modelfile. Ollama reads a GGUF file's own template only where it knows it already, so the Modelfile says it
again in Ollama's language, which is Go's `text/template` with a function `json`.

What a template writes around each message is read off what it does write, and held against it. Tools are written as
training and serving write them (`chat/tools.py`, or a base's own template of that form): a plain tool (parameters with
type, description and enum) letter for letter, whatever else JSON Schema knows as Ollama writes JSON, without blanks.
Ollama gives arguments and parameters by name in the order of the alphabet, and `<`, `>`, `&` within them as escapes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunery.chat.examples import Message, Tool
from tunery.chat.render import Renderer
from tunery.chat.template import RenderError
from tunery.domain.errors import InvalidRequest
from tunery.models.config import ModelConfig

DEFAULT_CONTEXT = 8192  # tokens; more memory is asked for where somebody wants more


def modelfile(renderer: Renderer, config: ModelConfig, file: str) -> str:
    """Raises InvalidRequest where the template cannot be said in Ollama's language."""
    frames, lines = frames_of(renderer), [f"FROM ./{file}"]
    try:
        tools = tool_frames_of(renderer, frames)
    except (ValueError, RenderError) as exc:
        tools = None
        lines.append(f"# Without tools, which the base's template writes in a way that has no words here: {exc}")
    stops = {renderer.tokenizer.id_to_token(index) for index in renderer.eos_ids} | {renderer.end_of_turn}
    lines.append(f'TEMPLATE """{as_go_template(frames, tools)}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in sorted(filter(None, stops))]
    lines += [f"PARAMETER num_ctx {min(config.context_length, DEFAULT_CONTEXT)}", "PARAMETER temperature 1"]
    lines += ["PARAMETER top_p 1", "PARAMETER top_k 0", "PARAMETER repeat_penalty 1"]  # as the API answers by default
    return "\n".join(lines) + "\n"


# ---- what a template writes around texts


@dataclass(frozen=True)
class Frames:
    """What a template writes around the text of each message."""

    with_system: str  # at the beginning of a conversation, before the text of its system message
    without_system: str  # at the beginning of one that has none
    before: dict[str, str]  # by role
    behind: dict[str, str]
    answer: str  # before the answer that is asked for

    def render(self, messages: list[Message]) -> str:
        """What `as_go_template` makes of them."""
        text = "" if messages[0]["role"] == "system" else self.without_system
        for message in messages:
            role = message["role"]
            text += self.before.get(role, self.with_system) + message["content"] + self.behind[role]
        return text + self.answer


@dataclass(frozen=True)
class ToolFrames:
    """What is written around tools, their calls and their results."""

    alone: str  # before the first tool, in a conversation without a system message
    behind_system: str  # before the first tool, after the text of the system message
    between: str
    behind: str  # after the last tool, up to the next message
    behind_text: str  # between an answer's text and its first call
    call: str  # before the name
    arguments: str  # between name and arguments
    behind_call: str
    between_calls: str
    result: str  # before the first one
    between_results: str
    behind_results: str

    def render(self, frames: Frames, messages: list[Message], tools: list[Tool]) -> str:
        """What `as_go_template` makes of them."""
        texts, last = list[str](), ""
        for message in messages:
            role = message["role"]
            if last == "tool" != role:
                texts.append(self.behind_results)
            if not last:
                texts.append(self._begin(frames, message, tools))
            if role == "tool":
                texts += [self.between_results if last == "tool" else self.result, message["content"]]
            elif last or role != "system":
                texts += [frames.before.get(role, frames.with_system), self._said(message), frames.behind[role]]
            last = role
        return "".join(texts) + (self.behind_results if last == "tool" else "") + frames.answer

    def _begin(self, frames: Frames, first: Message, tools: list[Tool]) -> str:
        is_told = first["role"] == "system"
        before = f"{frames.with_system}{first['content']}{self.behind_system}" if is_told else self.alone
        return before + self.between.join(map(_as_json, tools)) + self.behind

    def _said(self, message: Message) -> str:
        text, calls = message["content"], [self._call(call["function"]) for call in message.get("tool_calls", ())]
        return text + (self.behind_text if text and calls else "") + self.between_calls.join(calls)

    def _call(self, function: dict[str, Any]) -> str:
        given = _as_json(function["arguments"])
        return f"{self.call}{function['name']}{self.arguments}{given}{self.behind_call}"


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


SYSTEM, USER, ANSWER = ({"role": role, "content": f"@{role}@"} for role in ("system", "user", "assistant"))


def frames_of(renderer: Renderer) -> Frames:
    """Raises InvalidRequest where the template does not write frames."""
    render, end = renderer.template.render, renderer.end_of_turn
    try:
        text, alone = render([SYSTEM, USER, ANSWER, USER]), render([USER])
        head, rest = text.split(SYSTEM["content"])
        behind_system, rest = rest.split(USER["content"], 1)
        behind_user, rest = rest.split(ANSWER["content"])
        behind_system, before_user = _split(behind_system, end)
        behind_user, before_answer = _split(behind_user, end)
        frames = Frames(
            with_system=head,
            without_system=alone.split(USER["content"])[0].removesuffix(before_user),
            before={"user": before_user, "assistant": before_answer},
            behind={
                "system": behind_system,
                "user": behind_user,
                "assistant": _split(rest.split(USER["content"])[0], end)[0],
            },
            answer=render([USER], add_generation_prompt=True)[len(alone) :],
        )
        for turns in ([USER], [SYSTEM, USER], [USER, ANSWER, USER], [SYSTEM, USER, ANSWER, USER]):
            if frames.render(turns) != render(turns, add_generation_prompt=True):
                raise ValueError("it writes more than a frame around each message")
    except (ValueError, RenderError) as exc:
        raise InvalidRequest(
            f"The base's template cannot be said in Ollama's language: {exc}. Export the model as 'gguf'.",
            param="format",
        ) from exc
    return frames


def _split(gap: str, end: str) -> tuple[str, str]:
    """What stands between two messages: behind the first up to its closing token and blanks, before the second."""
    behind = gap.index(end) + len(end)
    while behind < len(gap) and gap[behind].isspace():
        behind += 1
    return gap[:behind], gap[behind:]


def _tool(name: str, argument: str) -> Tool:
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": f"@{name}@", "parameters": parameters}}


def _called(text: str, *given: tuple[str, dict[str, str]]) -> Message:
    calls = [
        {"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in given
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


def _result(name: str) -> Message:
    return {"role": "tool", "tool_call_id": f"call_{name}", "content": f"@result of {name}@"}


TOOLS = [_tool("first", "one"), _tool("second", "two")]
CALLED = _called("", ("first", {"one": "1"}), ("second", {"two": "2"}))
RESULTS = [_result("first"), _result("second")]


def tool_frames_of(renderer: Renderer, frames: Frames) -> ToolFrames:
    """Raises ValueError where tools are written otherwise than in frames, RenderError where they cannot be."""

    def render(*messages: Message) -> str:
        return renderer.render_chat(list(messages), TOOLS)

    first, second = map(_as_json, TOOLS)
    head, between, rest = _parts(render(SYSTEM, USER), first, second)
    begin = render(USER)
    calls = _after(begin, render(USER, CALLED)).removeprefix(frames.before["assistant"])
    call, arguments, middle, _, behind_call = _parts(calls, "first", '{"one": "1"}', "second", '{"two": "2"}')
    behind_call = behind_call.removesuffix(frames.behind["assistant"])
    text = _called(ANSWER["content"], ("first", {"one": "1"}))
    told = _after(begin, render(USER, text)).removeprefix(frames.before["assistant"])
    results = _after(render(USER, CALLED), render(USER, CALLED, *RESULTS, ANSWER))
    result, between_results, behind_results = _parts(results, *(each["content"] for each in RESULTS))
    found = ToolFrames(
        alone=begin.split(first)[0],
        behind_system=head.removeprefix(frames.with_system + SYSTEM["content"]),
        between=between,
        behind=rest.split(frames.before["user"] + USER["content"])[0],
        behind_text=told.removeprefix(ANSWER["content"]).split(call + "first")[0],
        call=call,
        arguments=arguments,
        behind_call=behind_call,
        between_calls=middle.removeprefix(behind_call).removesuffix(call),
        result=result,
        between_results=between_results,
        behind_results=behind_results.split(frames.before["assistant"] + ANSWER["content"])[0],
    )
    for turns in _conversations(text):
        for tools in (TOOLS, TOOLS[:1]):
            if found.render(frames, turns, tools) != renderer.render_chat(turns, tools, add_generation_prompt=True):
                raise ValueError("it writes more than a frame around each tool, call and result")
    return found


def _conversations(text: Message) -> Iterator[list[Message]]:
    for before in ([], [SYSTEM]):
        for behind in ([], [CALLED, *RESULTS], [text, RESULTS[0], ANSWER, USER], [CALLED, *RESULTS, USER]):
            yield [*before, USER, *behind]


def _parts(text: str, *known: str) -> list[str]:
    """What stands around the known texts, each of which is there in this order. Raises ValueError."""
    parts = list[str]()
    for each in known:
        part, found, text = text.partition(each)
        if not found:
            raise ValueError(f"{each} is missing in what it writes")
        parts.append(part)
    return [*parts, text]


def _after(begin: str, text: str) -> str:
    if not text.startswith(begin):
        raise ValueError("what is said later changes what was said before")
    return text[len(begin) :]


# ---- in Go's language. Texts stand in it as strings of Go: blanks between actions would be written, too.


def as_go_template(frames: Frames, tools: ToolFrames | None) -> str:
    """Raises InvalidRequest where a Modelfile could not hold it."""
    # Several results are one message: it ends where something else comes.
    behind = _text(tools.behind_results) if tools else ""
    turn = ""
    if tools:
        result = _if('eq $last "tool"', _text(tools.between_results), _text(tools.result)) + _do(".Content")
        turn = _if('eq .Role "tool"', result)
    for role in ("assistant", "user", "system"):
        turn = _if(f'eq .Role "{role}"', _turn(role, frames, tools), turn)
    if tools:
        before = _if('and (eq $last "tool") (ne .Role "tool")', behind)
        turn = before + _begin_with_tools(frames, tools) + turn + _do("$last = .Role")
    else:
        turn = _if('and (eq $i 0) (ne .Role "system")', _text(frames.without_system)) + turn
    end = _if('eq $last "tool"', behind) if tools else ""
    head = _do('$last := ""') if tools else ""
    template = head + _range("$i, $m := .Messages", turn) + end + _text(frames.answer)
    if '"""' in template:
        message = "The base's template has three quotes in a row, which no Modelfile can. Export the model as 'gguf'."
        raise InvalidRequest(message, param="format")
    return template


def _begin_with_tools(frames: Frames, tools: ToolFrames) -> str:
    """What the first message is preceded by. A system message that tools follow is written here, and whole."""
    system = _text(frames.with_system) + _do(".Content") + _text(tools.behind_system)
    definitions = _range("$j, $tool := $.Tools", _if("$j", _text(tools.between)) + _DEFINITION)
    some = _if('eq .Role "system"', system, _text(tools.alone)) + definitions + _text(tools.behind)
    none = _if('ne .Role "system"', _text(frames.without_system))
    return _if("eq $i 0", _if("$.Tools", some, none))


def _turn(role: str, frames: Frames, tools: ToolFrames | None) -> str:
    calls = _calls(tools) if tools and role == "assistant" else ""
    before = _text(frames.before.get(role, frames.with_system))
    turn = before + _do(".Content") + calls + _text(frames.behind[role])
    return _if("not (and $.Tools (eq $i 0))", turn) if tools and role == "system" else turn


def _calls(tools: ToolFrames) -> str:
    """Ollama takes for the mark of a call the first text that stands plain behind `if .ToolCalls`: so what separates
    calls comes after one, and what is asked before is asked of `$m`."""
    call = tools.call + _do(".Function.Name") + _text(tools.arguments) + _ARGUMENTS + _text(tools.behind_call)
    between = _if("lt $j (len (slice $m.ToolCalls 1))", _text(tools.between_calls))
    calls = _if(".ToolCalls", _range("$j, $call := .ToolCalls", call + between))
    return _if("and $m.ToolCalls $m.Content", _text(tools.behind_text)) + calls


def _do(action: str) -> str:
    return f"{{{{ {action} }}}}"


def _text(text: str) -> str:
    return _do(_quoted(text)) if text else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _if(test: str, then: str, otherwise: str = "") -> str:
    if not then and not otherwise:
        return ""
    return _do(f"if {test}") + then + (_do("else") + otherwise if otherwise else "") + _do("end")


def _with(value: str, then: str) -> str:
    return _do(f"with {value}") + then + _do("end")


def _range(over: str, each: str) -> str:
    return _do(f"range {over}") + each + _do("end")


def _object(over: str, value: str) -> str:
    """A map with blanks, as Python writes it."""
    pair = _do("$comma") + _do("json $key") + ": " + value + _do('$comma = ", "')
    return _text("{") + _do('$comma := ""') + _range(f"$key, $value := {over}", pair) + _text("}")


def _fields(*names: str) -> str:
    """As Ollama writes the JSON of an object that has no other fields, into `$plain`."""
    told = [
        _with(f".{name}", _do(f"$plain = print $plain {_quoted(f',{_quoted(name.lower())}:')} (json .)"))
        for name in names
    ]
    return _do(f"$plain := print {_quoted('{' + _quoted('type') + ':')} (json .Type)") + "".join(told)


_ARGUMENTS = _object(".Function.Arguments", _do("json $value"))
_LIST = "[" + _range("$n, $each := .", _if("$n", ", ") + _do("json $each")) + "]"
_TYPE = _text("{") + '"type": ' + _do("json .Type")
_DESCRIPTION = ', "description": ' + _do("json .")
# Whether a property, or the parameters, have no other fields than these is asked of their JSON: older versions of
# Ollama know fewer fields, and to name one that is not there is an error.
_PROPERTY = _with(
    "$value",
    _fields("Description", "Enum")
    + _if(
        'eq (json .) (print $plain "}")',
        _TYPE + _with(".Description", _DESCRIPTION) + _with(".Enum", ', "enum": ' + _LIST) + _text("}"),
        _do("json ."),
    ),
)
_PARAMETERS = _with(
    ".Function.Parameters",
    _fields("Required")
    + _if(
        f"eq (json .) (print $plain {_quoted(',' + _quoted('properties') + ':')} (json .Properties) {_quoted('}')})",
        _TYPE
        + ', "properties": '
        + _object(".Properties", _PROPERTY)
        + _with(".Required", ', "required": ' + _LIST)
        + _text("}"),
        _do("json ."),
    ),
)
_DEFINITION = (
    _text("{")
    + '"type": "function", "function": '
    + _text("{")
    + '"name": '
    + _do("json .Function.Name")
    + _with(".Function.Description", _DESCRIPTION)
    + ', "parameters": '
    + _PARAMETERS
    + _text("}}")
)
