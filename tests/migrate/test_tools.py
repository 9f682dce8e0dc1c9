"""Rows that call tools, hold parts or begin with a byte-order mark: from the old answers to the new model's data."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunery.datasets.lines import read_chunks
from tunery.datasets.validate import validate_file
from tunery.migrate.capture import (
    ModelAnswer,
    Prompt,
    capture,
    read_answers,
    read_prompts,
    to_training_rows,
    write_answers,
)
from tunery.migrate.compare import similarity
from tunery.migrate.report import make_report, to_html

FUNCTION = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
ARGUMENTS = '{"city": "Rome", "days": 2}'
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}
ASKED = {"role": "user", "content": "Weather in Rome"}
SAID = 'get_weather({"city":"Rome","days":2})'
ANSWERED = [
    ASKED,
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "21"},
]


def call_with(arguments: str) -> dict[str, Any]:
    return {**CALL, "function": {"name": "get_weather", "arguments": arguments}}


def answered(*messages: dict[str, Any], **beside: Any) -> dict[str, Any]:
    return {"messages": list(messages), **beside}


def calling(**message: Any) -> dict[str, Any]:
    return {"role": "assistant", **message}


AS_OBJECT = {**CALL, "function": {"name": "get_weather", "arguments": {"days": 2, "city": "Rome"}}}
PAIR = {
    "input": {"messages": [ASKED], "tools": TOOLS},
    "preferred_output": [{"role": "assistant", "content": "Warm"}],
    "non_preferred_output": [{"role": "assistant", "content": "No"}],
}

ROWS: dict[str, tuple[dict[str, Any], str | None, bool]] = {  # the row, what it expects, whether it has tools
    "null content": (answered(ASKED, calling(content=None, tool_calls=[CALL]), tools=TOOLS), SAID, True),
    "no content": (answered(ASKED, calling(tool_calls=[CALL]), tools=TOOLS), SAID, True),
    "arguments as an object": (answered(ASKED, calling(tool_calls=[AS_OBJECT]), tools=TOOLS), SAID, True),
    "a legacy call": (
        answered(ASKED, calling(content="", function_call=CALL["function"]), functions=[FUNCTION]),
        SAID,
        True,
    ),
    "an answer after a tool's": (answered(*ANSWERED, calling(content="21"), tools=TOOLS), "21", True),
    "parts": (answered(ASKED, calling(content=[{"type": "text", "text": "Rome"}])), "Rome", False),
    "a preference pair": (PAIR, "Warm", True),
    "a question alone": (answered(ASKED, tools=TOOLS), None, True),
}


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> tuple[dict[str, Any], str | None, bool]:
    return ROWS[request.param]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_prompts_keep_tools_and_calls(row: tuple[dict[str, Any], str | None, bool], mark: str, tmp_path: Path) -> None:
    described, expected, has_tools = row
    (path := tmp_path / "rows.jsonl").write_text(mark + json.dumps(described) + "\n", encoding="utf-8")
    (prompt,) = read_prompts(path)
    assert (prompt.expected, bool(prompt.tools)) == (expected, has_tools)
    assert prompt.messages[-1]["role"] in ("user", "tool")


@pytest.fixture
def captured(recorded_openai: Any, tmp_path: Path) -> list[ModelAnswer]:
    """Of an account whose model always calls the tools that it is given."""
    rows = [row for row, _, has_tools in ROWS.values() if has_tools]
    (path := tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded_openai.calls = [CALL]
    return list(capture(recorded_openai.client(), "ft:gpt-4o-mini-2024-07-18:acme::AbC12345", read_prompts(path)))


def test_calls_come_over_the_wire_into_the_golden_file_and_the_training_data(
    captured: list[ModelAnswer], tmp_path: Path
) -> None:
    assert {answer.text for answer in captured} == {SAID}
    write_answers(path := tmp_path / "old.golden.jsonl", captured)
    kept = read_answers(path)
    assert kept == captured and all(answer.tools for answer in kept)
    (distilled := tmp_path / "train.jsonl").write_bytes(b"".join(to_training_rows([*kept, *kept])))
    report = validate_file(distilled, method="supervised")
    assert report.is_valid and report.num_examples == 2 * len(kept)
    (first, *_) = (json.loads(line) for line in b"".join(read_chunks(distilled)).split(b"\n") if line)
    assert first["messages"][-1]["tool_calls"][0]["function"] == CALL["function"] and "tools" in first


def test_a_cut_answer_is_not_taught(captured: list[ModelAnswer]) -> None:
    words = replace(captured[0], tool_calls=[], answer="It is", finish_reason="length")
    call = replace(captured[1], tool_calls=[call_with('{"ci')], finish_reason="length")
    failed = replace(captured[2], error="503")
    assert list(to_training_rows([words, call, failed])) == []
    assert similarity(call.text, call.text) == 1.0


def test_the_same_call_is_the_same_answer_however_its_json_is_written(captured: list[ModelAnswer]) -> None:
    other = '{"days":2,"city":"Rome"}'
    same = [replace(each, tool_calls=[call_with(other)]) for each in captured]
    made = make_report(old=captured, new=same, base=None, now=1)
    assert {row.similarity for row in made.rows} == {1.0}
    wrong = [replace(each, tool_calls=[call_with("{}")]) for each in captured]
    assert make_report(old=captured, new=wrong, base=None, now=1).new.score.mean < made.new.score.mean
    assert "get_weather" in to_html(made)


def test_a_question_in_parts_is_shown_as_its_text() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "Weather"}, {"type": "text", "text": "in Rome"}]}
    answers = [ModelAnswer(1, [parts], "m", answer="21")]
    made = make_report(old=answers, new=answers, base=None, now=1)
    assert "<pre>Weather\nin Rome</pre>" in to_html(made)


def test_golden_files_of_the_version_before_are_read(tmp_path: Path) -> None:
    (path := tmp_path / "old.golden.jsonl").write_text(
        '{"row": 1, "messages": [], "model": "m", "answer": "a\u2028b"}\n'
    )
    assert read_answers(path) == [ModelAnswer(1, [], "m", answer="a\u2028b")]


def test_prompt_without_tools_asks_without_them(recorded_openai: Any) -> None:
    recorded_openai.calls = [CALL]
    (answer,) = capture(recorded_openai.client(), "ft:x:y::z", [Prompt(1, [ASKED])])
    assert answer.tool_calls == [] and answer.answer
