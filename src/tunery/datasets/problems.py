"""What can be wrong with a training file: stable codes, each with a severity and what to do about it."""

from dataclasses import dataclass
from typing import Literal

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
        return CODES[self.code].severity

    @property
    def suggestion(self) -> str:
        return CODES[self.code].suggestion


@dataclass(frozen=True, slots=True)
class Code:
    severity: Severity
    suggestion: str


def _error(suggestion: str) -> Code:
    return Code("error", suggestion)


def _warning(suggestion: str) -> Code:
    return Code("warning", suggestion)


CODES: dict[str, Code] = {
    # the file
    "empty_file": _error("Write one example a line, at least 10 of them."),
    "binary_file": _error("Upload JSON Lines text. `tunery data prepare` turns Parquet, XLSX and CSV into it."),
    "too_few_examples": _error("Add examples: 10 are the least, 50 to 100 show a clear gain."),
    "nothing_to_train": _error("Shorten the prompts: what the model shall learn lies beyond its limit."),
    "mixed_formats": _error("Keep one format in a file: all chat, all preference pairs, or all prompt and completion."),
    "wrong_format": _error("Choose the method that fits the file, or bring the file into the method's format."),
    # the line
    "byte_order_mark": _warning("Save the file as UTF-8 without a byte-order mark."),
    "invalid_utf8": _error("Save the file as UTF-8."),
    "line_too_long": _error("Split the example: a line this long is cut to a small part of itself anyway."),
    "invalid_json": _error(
        "Write one JSON object a line, nothing after it. `tunery data prepare` makes such lines of tables and lists."
    ),
    "not_an_object": _error('Each line must be a JSON object such as {"messages": [...]}.'),
    "nesting_too_deep": _error("Flatten the example: no real conversation or tool schema is nested this deep."),
    "duplicate_key": _error("Keep one of the two: a reader would silently drop the other."),
    "non_finite_number": _error("NaN and Infinity are not JSON: use null, a string or a number."),
    "number_too_large": _error("Write numbers beyond 64 bits as strings."),
    "lone_surrogate": _error("Write the whole character: half of a surrogate pair is no text."),
    # the example
    "unknown_format": _error('Use {"messages": [...]}, or {"input", "preferred_output", "non_preferred_output"}.'),
    "unsupported_reinforcement": _error(
        "Reinforcement fine-tuning is not offered yet. For supervised fine-tuning end each example with the answer."
    ),
    "unsupported_vision": _error("Images are not supported yet: remove the example, or describe the image in words."),
    "extra_key": _error("Remove the key. Data of your own belongs in another file."),
    "missing_messages": _error('Put the conversation under "messages".'),
    "messages_not_a_list": _error('"messages" is a list of objects with role and content.'),
    "messages_empty": _error("Give at least a user message and the assistant's answer."),
    "no_assistant_message": _error("Add the answer that the model shall learn."),
    "last_message_not_assistant": _error("End the example with the answer that the model shall learn."),
    "last_weight_zero": _error("Give the last answer weight 1, or leave it out of the example."),
    # a message
    "message_not_an_object": _error('A message is an object such as {"role": "user", "content": "..."}.'),
    "missing_role": _error("Add the role: system, user, assistant or tool."),
    "unknown_role": _error("Use system, user, assistant or tool."),
    "message_extra_key": _error("Remove the key from the message."),
    "weight_not_allowed": _error("Only assistant messages are trained: remove weight from the others."),
    "invalid_weight": _error("weight is 0 (not trained) or 1 (trained)."),
    "invalid_name": _error("name is 1 to 64 characters without spaces or any of < | \\ / >."),
    "missing_content": _error("Add the content. Only an assistant message with tool calls may go without."),
    "content_not_text": _error("content is a string, or a list of text parts."),
    "empty_content": _warning("An empty text teaches nothing: fill it in or remove the message."),
    "invalid_content_part": _error('A part is an object such as {"type": "text", "text": "..."}.'),
    "special_token": _error("Remove the token: it would steer the conversation instead of standing in it."),
    # tools
    "tools_not_a_list": _error("tools is a list of function definitions."),
    "invalid_tool": _error('A tool is {"type": "function", "function": {"name", "description"?, "parameters"?}}.'),
    "duplicate_tool": _error("Give every function its own name."),
    "functions_and_tools": _error("Use tools; functions is its older name."),
    "invalid_functions": _error("functions is a list of 1 to 128 definitions with a name each."),
    "invalid_parallel_tool_calls": _error("parallel_tool_calls is true or false."),
    "tool_calls_not_allowed": _error("Only assistant messages call tools."),
    "invalid_tool_call": _error('A call is {"id", "type": "function", "function": {"name", "arguments"}}.'),
    "arguments_not_json": _error("arguments is a string that holds a JSON object."),
    "arguments_not_text": _warning('arguments is JSON text of an object, encoded once; a call without any has "{}".'),
    "undefined_tool": _warning("Define the function in tools, as you will when you use the model."),
    "missing_tool_call_id": _error("Name the call that the tool message answers."),
    "unknown_tool_call_id": _warning("The id must be one of the calls of the assistant message before."),
    "missing_tool_result": _warning("Give each call its result before the conversation goes on."),
    "missing_function_name": _error("A function message names the function in name."),
    # preference pairs
    "missing_input": _error('Put the prompt under "input": {"messages": [...]}.'),
    "invalid_input": _error('input is an object with "messages" and, if need be, "tools".'),
    "missing_preferred_output": _error("Give preferred_output, a list of one assistant message."),
    "missing_non_preferred_output": _error("Give non_preferred_output, a list of one assistant message."),
    "invalid_output": _error("An output is a list of exactly one assistant message."),
    "output_alias": _warning("Use preferred_output and non_preferred_output; the older names are read too."),
    "input_ends_with_assistant": _error("End input with the user's message: the answers stand in the outputs."),
    "equal_outputs": _warning("Two equal answers teach nothing: make them differ."),
    # prompt and completion
    "missing_completion": _error("Give both prompt and completion."),
    "prompt_not_text": _error("prompt is a string."),
    "completion_not_text": _error("completion is a string."),
    "empty_completion": _error("An empty completion teaches nothing."),
    # rendering
    "cannot_render": _error("Bring the conversation into a shape that the base model's chat template allows."),
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
    """A value of the file inside a message: quoted, and short whatever its size."""
    text = repr(value[:limit] if isinstance(value, str) else value)
    return text if len(text) <= limit + 2 else text[:limit] + "…"
