"""Lines of a training file → examples, or the problems that stand against it. Never raises for bad input."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery.chat.examples import ChatExample, CompletionExample, Example, PreferenceExample, Tool
from tunery.chat.messages import legacy_calls, legacy_tools
from tunery.datasets.jsonline import decode
from tunery.datasets.lines import MAX_LINE_BYTES, Line, read_chunks, read_lines
from tunery.datasets.message_rules import check_message, check_messages
from tunery.datasets.problems import Findings, Problem, shown
from tunery.datasets.tidy import is_absent, tidy_row
from tunery.datasets.tool_rules import check_tools
from tunery.texts import say

_CHAT_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
_INPUT_KEYS = {"messages", "tools", "parallel_tool_calls"}
_OUTPUTS = {
    "preferred_output": ("missing_preferred_output", "preferred_completion"),
    "non_preferred_output": ("missing_non_preferred_output", "non_preferred_completion"),
}
# What keeps a row from being trained on, and not from being read as a conversation.
_ONLY_OF_TRAINING = frozenset(
    (
        "extra_key",
        "unsupported_reinforcement",
        "no_assistant_message",
        "last_message_not_assistant",
        "last_weight_zero",
        "input_ends_with_assistant",
    )
)


@dataclass(frozen=True, slots=True)
class Parsed:
    """`example` is None when one of the problems is an error; warnings may stand beside an example."""

    example: Example | None
    problems: list[Problem]


def read_examples(lines: Iterable[Line]) -> Iterator[Example | Problem]:
    """Every example and every problem, in the order of the lines."""
    for line in lines:
        if not line.is_blank:
            parsed = parse_line(line)
            yield from parsed.problems
            if parsed.example is not None:
                yield parsed.example


def load_examples(path: Path) -> list[Example]:
    """The examples of a file that has been validated; a bad line is left out."""
    return [item for item in read_examples(read_lines(read_chunks(path))) if not isinstance(item, Problem)]


def parse_line(line: Line) -> Parsed:
    findings = Findings(line.number, line.example)
    example = _parse(line, findings)
    return Parsed(None if findings.has_errors else example, findings.problems)


def readable_example(line: Line) -> Example | Problem:
    """The example of a line that can be read, whether or not it can be trained on; else what stands against it."""
    findings = Findings(line.number, line.example)
    example = _parse(line, findings)
    if example is not None:
        return example
    return next(problem for problem in findings.problems if problem.severity == "error")


def _parse(line: Line, findings: Findings) -> Example | None:
    if line.joined:
        findings.add("wrong_line_ends", "", say("problem.wrong_line_ends", ends=line.joined))
        return None
    if line.is_too_long:
        findings.add("line_too_long", "", say("problem.line_too_long", size=line.size, most=MAX_LINE_BYTES))
        return None
    row = decode(line.content, findings)
    if row is None:
        return None
    tidy_row(row, findings)
    return _read(row, findings)


def _read(row: dict[str, Any], findings: Findings) -> Example | None:
    if "messages" in row:
        return _read_chat(row, findings)
    if "input" in row or any(name in row or alias in row for name, (_, alias) in _OUTPUTS.items()):
        return _read_preference(row, findings)
    if "prompt" in row or "completion" in row:
        return _read_completion(row, findings)
    if row.keys() & _CHAT_KEYS:
        findings.add("missing_messages", "", say("problem.missing_messages"), value="messages")
        return None
    keys = ", ".join(shown(key) for key in list(row)[:5]) or say("problem.no_key")
    findings.add("unknown_format", "", say("problem.unknown_format", keys=keys))
    return None


def _read_chat(row: dict[str, Any], findings: Findings) -> ChatExample | None:
    messages = row["messages"]
    extra = row.keys() - _CHAT_KEYS
    last = messages[-1] if isinstance(messages, list) and messages else None
    ends_with = last.get("role") if isinstance(last, dict) else None
    names = check_tools(row, "", findings)
    check_messages(messages, "messages", findings, names)
    if extra and ends_with in ("user", "developer", "tool"):
        findings.add("unsupported_reinforcement", "", say("problem.unsupported_reinforcement"))
    else:
        _check_extra(extra, findings)
        if isinstance(messages, list) and messages:
            _check_answers(messages, findings)
    if findings.has_errors_but(_ONLY_OF_TRAINING):
        return None
    return ChatExample(findings.line, [_modern(message) for message in messages], _tools_of(row))


def _tools_of(holder: dict[str, Any]) -> list[Tool] | None:
    tools, functions = holder.get("tools"), holder.get("functions")
    if not is_absent(tools):
        return tools
    return None if is_absent(functions) else legacy_tools(functions)


def _check_extra(keys: Iterable[str], findings: Findings, path: str = "") -> None:
    for key in sorted(keys):
        findings.add("extra_key", f"{path}{key[:60]}", say("problem.extra_key", key=shown(key)), value=key)


def _check_answers(messages: list[Any], findings: Findings) -> None:
    answers = [m for m in messages if isinstance(m, dict) and m.get("role") == "assistant"]
    last, path = messages[-1], f"messages[{len(messages) - 1}]"
    if not answers:
        findings.add("no_assistant_message", "messages", say("problem.no_assistant_message"))
    elif not isinstance(last, dict) or last.get("role") != "assistant":
        findings.add("last_message_not_assistant", path, say("problem.last_message_not_assistant"))
    elif last.get("weight") == 0:
        findings.add("last_weight_zero", f"{path}.weight", say("problem.last_weight_zero"))


def _modern(message: dict[str, Any]) -> dict[str, Any]:
    """`function_call` as `tool_calls`."""
    kept = {key: value for key, value in message.items() if key != "function_call"}
    if calls := legacy_calls(message):
        kept["tool_calls"] = calls
    return kept


def _read_preference(row: dict[str, Any], findings: Findings) -> PreferenceExample | None:
    known = {"input", *_OUTPUTS, *(alias for _, alias in _OUTPUTS.values())}
    _check_extra(row.keys() - known, findings)
    names = _check_input(row, findings)
    outputs = [_read_output(row, name, findings, names) for name in _OUTPUTS]
    if findings.has_errors_but(_ONLY_OF_TRAINING) or outputs[0] is None or outputs[1] is None:
        return None
    if outputs[0] == outputs[1]:
        findings.add("equal_outputs", "non_preferred_output", say("problem.equal_outputs"))
    prompt = row["input"]
    messages = [_modern(message) for message in prompt["messages"]]
    return PreferenceExample(findings.line, messages, outputs[0], outputs[1], _tools_of(prompt))


def _check_input(row: dict[str, Any], findings: Findings) -> set[str] | None:
    prompt = row.get("input")
    if prompt is None:
        findings.add("missing_input", "", say("problem.missing_input"), value="input")
        return None
    if not isinstance(prompt, dict):
        findings.add("invalid_input", "input", say("problem.invalid_input"))
        return None
    _check_extra(prompt.keys() - _INPUT_KEYS, findings, "input.")
    if "messages" not in prompt:
        findings.add("missing_messages", "input", say("problem.input_without_messages"), value="messages")
        return None
    names = check_tools(prompt, "input.", findings)
    messages = prompt["messages"]
    check_messages(messages, "input.messages", findings, names)
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, dict) and last.get("role") == "assistant":
        findings.add("input_ends_with_assistant", "input.messages", say("problem.input_ends_with_assistant"))
    return names


def _read_output(
    row: dict[str, Any], name: str, findings: Findings, tool_names: set[str] | None
) -> dict[str, Any] | None:
    missing, alias = _OUTPUTS[name]
    if name not in row and alias in row:
        findings.add("output_alias", alias, say("problem.output_alias", alias=alias, name=name), value=alias)
    output = row.get(name, row.get(alias))
    if output is None:
        findings.add(missing, "", say("problem.missing_output", name=name), value=name)
        return None
    answers = output if isinstance(output, list) else [output]
    answer = answers[0] if len(answers) == 1 else None
    if not isinstance(answer, dict) or answer.get("role") != "assistant":
        findings.add("invalid_output", name, say("problem.invalid_output", name=name))
        return None
    check_message(answer, f"{name}[0]", findings, tool_names)
    return _modern({key: value for key, value in answer.items() if key != "weight"})


def _read_completion(row: dict[str, Any], findings: Findings) -> CompletionExample | None:
    _check_extra(row.keys() - {"prompt", "completion"}, findings)
    if len(row.keys() & {"prompt", "completion"}) < 2:
        absent = "completion" if "prompt" in row else "prompt"
        findings.add("missing_completion", "", say("problem.missing_completion", absent=absent), value=absent)
        return None
    prompt, completion = row["prompt"], row["completion"]
    if not isinstance(prompt, str):
        findings.add("prompt_not_text", "prompt", say("problem.prompt_not_text", prompt=shown(prompt)))
    if not isinstance(completion, str):
        findings.add(
            "completion_not_text", "completion", say("problem.completion_not_text", completion=shown(completion))
        )
    elif not completion:
        findings.add("empty_completion", "completion", say("problem.empty_completion"))
    if findings.has_errors_but(_ONLY_OF_TRAINING):
        return None
    return CompletionExample(findings.line, prompt, completion)
