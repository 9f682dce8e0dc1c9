"""Tools in a chat: what the grammar must allow, and calls found in the answer's text."""

from dataclasses import dataclass
from typing import Any

from tunery.datasets.tools import CALL_CLOSE, CALL_OPEN, ToolCall, call_schema, parse_calls
from tunery.domain.errors import InvalidRequest
from tunery.domain.ids import random_text
from tunery.serving.constraints import calls_grammar, text_or_calls_grammar
from tunery.serving.http.schemas import ChatRequest, FunctionDefinition, NamedTool
from tunery.serving.text import StopMatcher


@dataclass(frozen=True)
class ToolPolicy:
    tools: list[dict[str, Any]]  # as the prompt shows them
    choice: str  # none, auto, required, or the name of the one function that must be called
    is_parallel: bool
    is_legacy: bool  # asked for as `functions`: answered as `function_call`

    @property
    def may_call(self) -> bool:
        return bool(self.tools) and self.choice != "none"

    @property
    def must_call(self) -> bool:
        return self.may_call and self.choice != "auto"

    def grammar(self) -> str | None:
        """What keeps every call well-formed; None when no tool may be called."""
        if not self.may_call:
            return None
        if self.choice in ("auto", "required"):
            allowed = self.tools
        else:
            allowed = [tool for tool in self.tools if tool["function"]["name"] == self.choice]
        schema = call_schema(allowed)
        marks = {"opening": CALL_OPEN, "closing": CALL_CLOSE, "is_parallel": self.is_parallel}
        return text_or_calls_grammar(schema, **marks) if self.choice == "auto" else calls_grammar(schema, **marks)

    def finish_reason(self, reason: str, has_calls: bool) -> str:
        """As OpenAI: a call that was forced by name ends with `stop`."""
        if not has_calls or reason != "stop":
            return reason
        if self.choice not in ("auto", "required"):
            return "stop"
        return "function_call" if self.is_legacy else "tool_calls"


def policy_of(request: ChatRequest) -> ToolPolicy:
    """Raises InvalidRequest for a choice without tools or of an unknown one."""
    is_legacy = request.functions is not None
    if is_legacy and request.tools is not None:
        raise InvalidRequest("Give either 'tools' or 'functions', not both.", param="functions", code="invalid_value")
    functions = request.functions if request.functions else [tool.function for tool in request.tools or []]
    choice = request.function_call if is_legacy else request.tool_choice
    param = "function_call" if is_legacy else "tool_choice"
    if choice is not None and choice != "none" and not functions:
        raise InvalidRequest(
            f"Invalid value for '{param}': '{param}' is only allowed when 'tools' are specified.", param=param
        )
    name = _name(choice)
    if name not in ("none", "auto", "required", *(function.name for function in functions)):
        raise InvalidRequest(f"Invalid value for '{param}': no function named {name!r} was specified.", param=param)
    parallel = request.parallel_tool_calls is not False and not is_legacy
    forced = name not in ("none", "auto", "required")
    return ToolPolicy([_tool(function) for function in functions], name, parallel and not forced, is_legacy)


def _name(choice: Any) -> str:
    if choice is None:
        return "auto"
    if isinstance(choice, str):
        return choice
    return choice.function.name if isinstance(choice, NamedTool) else choice.name


def _tool(function: FunctionDefinition) -> dict[str, Any]:
    return {"type": "function", "function": function.model_dump(exclude_none=True, exclude={"strict"})}


@dataclass(frozen=True)
class Piece:
    """What an answer's text came to: words, or a call that is complete."""

    text: str = ""
    call: ToolCall | None = None


class CallStream:
    """Splits a growing answer into text and calls. Text that may yet become a call's opening mark is held back."""

    def __init__(self) -> None:
        self._before = StopMatcher((CALL_OPEN,))
        self._is_calling = False
        self._written = ""  # from the first opening mark on, without the calls given out

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        if not self._is_calling:
            held = self._before.held
            free, self._is_calling = self._before.push(text)
            text = (held + text)[len(free) :]
            pieces = [Piece(free)] if free else []
        if self._is_calling:
            self._written += text
            pieces += self._complete_calls()
        return pieces

    def _complete_calls(self) -> list[Piece]:
        pieces: list[Piece] = []
        while (end := self._written.find(CALL_CLOSE)) >= 0:
            _, calls = parse_calls(self._written[: end + len(CALL_CLOSE)])
            if not calls:
                break
            self._written = self._written[end + len(CALL_CLOSE) :]
            pieces += [Piece(call=call) for call in calls]
        return pieces

    def finish(self) -> list[Piece]:
        """What is left: a call without its closing mark, or text that only looked like one."""
        if not self._is_calling:
            text = self._before.flush()
            return [Piece(text)] if text else []
        text, calls = parse_calls(self._written)
        if calls:
            return [Piece(call=call) for call in calls]
        return [Piece(text)] if text.strip() else []


def new_call_id() -> str:
    return "call_" + random_text(24)
