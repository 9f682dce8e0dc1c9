"""Tools in a chat: what the answer must be, and calls found in its text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunery.chat.tools import CALL_CLOSE, CALL_OPEN, ToolCall, parse_call, parse_calls, parse_cut_call
from tunery.domain.errors import InvalidRequest
from tunery.domain.ids import random_text
from tunery.domain.schemas import RequestSchema, format_schema, function_schema
from tunery.serving.constraints import CallMarks, Function, Rules
from tunery.serving.http.schemas import AllowedToolChoice, ChatRequest, FunctionDefinition, NamedTool
from tunery.serving.text import StopMatcher, overlap
from tunery.texts import say

_MARKS = CallMarks(CALL_OPEN, CALL_CLOSE)
_CLEAR = "<tool"  # so much of the opening mark, and nobody takes it for words
_MODES = ("none", "auto", "required")


@dataclass(frozen=True)
class ToolPolicy:
    tools: list[dict[str, Any]]  # as the prompt shows them
    schemas: list[RequestSchema]  # of their arguments
    choice: str  # none, auto, required, or the name of the one function that must be called
    callable_names: frozenset[str]
    is_parallel: bool

    @property
    def may_call(self) -> bool:
        return bool(self.tools) and self.choice != "none"

    @property
    def must_call(self) -> bool:
        return self.may_call and self.choice != "auto"

    @property
    def functions(self) -> list[Function]:
        """Those that the answer may call."""
        named = [(tool["function"]["name"], schema) for tool, schema in zip(self.tools, self.schemas, strict=True)]
        return [Function(name, schema) for name, schema in named if self.may_call and name in self.callable_names]

    def finish_reason(self, reason: str, *, has_calls: bool, is_cut: bool) -> str:
        """As OpenAI: a call that was forced by name ends with `stop`, one that does not end with `length`."""
        if is_cut:
            return "length"
        if not has_calls or reason != "stop":
            return reason
        return "tool_calls" if self.choice in _MODES else "stop"


def policy_of(request: ChatRequest) -> ToolPolicy:
    """Raises InvalidRequest for a choice without tools or of an unknown one."""
    functions, choice = [tool.function for tool in request.tools or []], request.tool_choice
    if choice is not None and choice != "none" and not functions:
        raise InvalidRequest(say("error.tool_choice_alone"), param="tool_choice")
    mode, names = _chosen(choice, [function.name for function in functions])
    for name in names:
        if name not in {function.name for function in functions}:
            raise InvalidRequest(say("error.tool_choice_unknown", name=name), param="tool_choice")
    return ToolPolicy(
        tools=[shown_tool(function) for function in functions],
        schemas=[function_schema(one.model_dump(), f"tools[{index}].function") for index, one in enumerate(functions)],
        choice=mode,
        callable_names=frozenset(names),
        is_parallel=request.parallel_tool_calls is not False and mode in _MODES,
    )


def _chosen(choice: str | NamedTool | AllowedToolChoice | None, names: list[str]) -> tuple[str, list[str]]:
    """The mode, or the name that is forced; and the functions that may be called."""
    if choice is None:
        return "auto", names
    if isinstance(choice, str):
        return choice, names
    if isinstance(choice, AllowedToolChoice):
        return choice.allowed_tools.mode, [tool.function.name for tool in choice.allowed_tools.tools]
    return choice.function.name, [choice.function.name]


def shown_tool(function: FunctionDefinition) -> dict[str, Any]:
    """As the prompt shows it."""
    return {"type": "function", "function": function.model_dump(exclude_none=True, exclude={"strict"})}


def rules_of(request: ChatRequest, policy: ToolPolicy) -> Rules | None:
    """What the answer must be; None when it is free. A call that is forced wins over the response format. Raises
    InvalidRequest."""
    answer = None if policy.must_call else _answer_schema(request)
    functions = tuple(policy.functions)
    if not functions and answer is None:
        return None
    return Rules(_MARKS, functions, policy.must_call, policy.is_parallel, answer)


def _answer_schema(request: ChatRequest) -> RequestSchema | None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return RequestSchema("response_format", "response_format", None)
    if wanted.json_schema is None:
        param = "response_format.json_schema"
        raise InvalidRequest(
            say("error.missing_parameter", param=param), param=param, code="missing_required_parameter"
        )
    return format_schema(wanted.json_schema.model_dump(by_alias=True))


@dataclass(frozen=True)
class Piece:
    """What an answer's text came to: words, or a call."""

    text: str = ""
    call: ToolCall | None = None
    is_cut: bool = False  # the call has no end: its arguments are what came of them


class CallStream:
    """Splits a growing answer into text and calls. Text that may yet become a call's opening mark is held back."""

    def __init__(self, names: Sequence[str] = (), *, must_call: bool = False, has_format: bool = False) -> None:
        """`names`: of the functions that may be called, in the request's order.

        `must_call`: the answer is calls and nothing else. `has_format`: it is calls or JSON, in which a mark is data.
        """
        self._names = names
        self._must_call = must_call
        self._has_format = has_format
        self._before = StopMatcher((CALL_OPEN,))
        self._is_calling = False
        self._is_data = False  # an answer of the format
        self._num_calls = 0
        self._last = ""  # character of the words given out
        self._written = ""  # from the first opening mark on, without the calls given out

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        begun = (self._before.held + text).lstrip()
        self._is_data |= self._has_format and not self._is_calling and bool(begun) and begun[0] != CALL_OPEN[0]
        if self._is_data:
            return [Piece(self._before.flush() + text)] if text else []
        if not self._is_calling:
            held = self._before.held
            free, self._is_calling = self._before.push(text)
            text = (held + text)[len(free) :]
            self._last = free[-1:] or self._last
            pieces = [Piece(free)] if free else []
        if self._is_calling:
            self._written += text
            pieces += self._complete_calls()
        return pieces

    def _complete_calls(self) -> list[Piece]:
        pieces: list[Piece] = []
        while CALL_CLOSE in self._written:
            start = self._written.find(CALL_OPEN)
            found = parse_call(self._written[start:]) if start >= 0 else None
            if found is None or not self._written[: start + found[1]].endswith(CALL_CLOSE):
                break
            self._written = self._written[start + found[1] :]
            self._num_calls += 1
            pieces.append(Piece(call=found[0]))
        return pieces

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """What is left: a call without its end, or text that only looked like one.

        `is_cut`: the answer did not end by itself, so what it had begun is a call, as it is where a call must come. A
        mark is then never given out as text.
        """
        rest = self._written if self._is_calling else self._before.flush()
        text, calls = parse_calls(_without_begun(rest, CALL_CLOSE) if self._is_calling else rest)
        if calls:
            return [*([Piece(text)] if text.strip() else []), *(Piece(call=call) for call in calls)]
        if not is_cut and not self._must_call:
            return [Piece(rest)] if rest and (not self._is_calling or rest.strip()) else []
        before, mark, body = rest.partition(CALL_OPEN)
        if not mark and not self._is_word(rest):
            before = _without_begun(rest, CALL_OPEN)
        is_begun = bool(mark) or (self._must_call and not self._num_calls)
        call = parse_cut_call(body, self._names) if is_begun else None
        words = [Piece(before)] if before.strip() and not self._must_call else []
        return words + ([Piece(call=call, is_cut=True)] if call else [])

    def _is_word(self, begun: str) -> bool:
        """Whether what may become an opening mark is more likely a sign of the text, as in `a < b`: models write calls
        on a line of their own."""
        return not self._must_call and self._last not in ("", "\n") and len(begun) < len(_CLEAR)


def _without_begun(text: str, mark: str) -> str:
    """Without the beginning of the mark at the text's end."""
    return text[: len(text) - overlap(text, mark)]


def new_call_id() -> str:
    return "call_" + random_text(24)
