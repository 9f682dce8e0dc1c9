"""What can be wrong with a training file: stable codes with their severity.

What is said of each stands in texts/ under `problem.`, what to do about it under `mend.<code>`."""

import json
from dataclasses import dataclass
from typing import Literal

from tunery.texts import say

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    code: str  # a key of CODES
    line: int  # 1-based; 0 when the whole file is meant
    path: str  # inside the example: `messages[1].content`; "" for the line itself
    message: str
    value: str = ""  # the offending key, token or role, as the job error quotes it
    example: int = 0  # 1-based, blank lines not counted: what OpenAI's texts number

    @property
    def severity(self) -> Severity:
        return CODES[self.code]

    @property
    def suggestion(self) -> str:
        return say(f"mend.{self.code}")


CODES: dict[str, Severity] = {
    # the file
    "empty_file": "error",
    "binary_file": "error",
    "wrong_encoding": "error",
    "too_few_examples": "error",
    "nothing_to_train": "error",
    "mixed_formats": "error",
    "wrong_format": "error",
    # the line
    "byte_order_mark": "warning",
    "invalid_utf8": "error",
    "line_too_long": "error",
    "invalid_json": "error",
    "wrong_line_ends": "error",
    "not_an_object": "error",
    "nesting_too_deep": "error",
    "duplicate_key": "error",
    "non_finite_number": "error",
    "number_too_large": "error",
    "lone_surrogate": "error",
    # the example
    "unknown_format": "error",
    "unsupported_reinforcement": "error",
    "unsupported_vision": "error",
    "extra_key": "error",
    "missing_messages": "error",
    "messages_not_a_list": "error",
    "messages_empty": "error",
    "no_assistant_message": "error",
    "last_message_not_assistant": "error",
    "last_weight_zero": "error",
    # a message
    "message_not_an_object": "error",
    "missing_role": "error",
    "unknown_role": "error",
    "message_extra_key": "error",
    "weight_not_allowed": "error",
    "invalid_weight": "error",
    "invalid_name": "error",
    "missing_content": "error",
    "content_not_text": "error",
    "empty_content": "warning",
    "invalid_content_part": "error",
    # tools
    "tools_not_a_list": "error",
    "invalid_tool": "error",
    "duplicate_tool": "error",
    "functions_and_tools": "error",
    "invalid_functions": "error",
    "invalid_parallel_tool_calls": "error",
    "tool_calls_not_allowed": "error",
    "invalid_tool_call": "error",
    "arguments_not_json": "error",
    "arguments_not_text": "warning",
    "undefined_tool": "warning",
    "missing_tool_call_id": "error",
    "unknown_tool_call_id": "warning",
    "missing_tool_result": "warning",
    "missing_function_name": "error",
    # preference pairs
    "missing_input": "error",
    "invalid_input": "error",
    "missing_preferred_output": "error",
    "missing_non_preferred_output": "error",
    "invalid_output": "error",
    "output_alias": "warning",
    "input_ends_with_assistant": "error",
    "equal_outputs": "warning",
    # prompt and completion
    "missing_completion": "error",
    "prompt_not_text": "error",
    "completion_not_text": "error",
    "empty_completion": "error",
    # rendering
    "cannot_render": "error",
    "turned_into_chat": "warning",
    "answer_cut": "warning",
}


class Findings:
    """Collects the problems of one line."""

    def __init__(self, line: int, example: int = 0) -> None:
        self.line = line
        self.example = example
        self.problems: list[Problem] = []

    def add(self, code: str, path: str, message: str, *, value: str = "") -> None:
        self.problems.append(Problem(code, self.line, path, message, value, self.example))

    @property
    def has_errors(self) -> bool:
        return self.has_errors_but(frozenset())

    def has_errors_but(self, codes: frozenset[str]) -> bool:
        """Whether there are errors of other codes than these."""
        return any(problem.severity == "error" and problem.code not in codes for problem in self.problems)


def shown(value: object, limit: int = 60) -> str:
    """A value of the file inside a message: quoted, as JSON writes it, and short whatever its size."""
    text = repr(value[:limit]) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.encode("utf-8", "backslashreplace").decode()  # half a pair of surrogates cannot be sent
    return text if len(text) <= limit + 2 else text[:limit] + "…"
