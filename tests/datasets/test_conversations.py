"""One reader of rows for all who ask a model what a file asks."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.conftest import chat_row, pair_row
from tunery.datasets.conversations import Conversation, read_conversations
from tunery.datasets.problems import Problem

USER = {"role": "user", "content": "How are you?"}
ANSWER = {"role": "assistant", "content": "Well."}


def read(*rows: Any) -> list[Conversation | Problem]:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    return list(read_conversations(["\n".join(lines).encode()]))


def only(row: Any) -> Conversation:
    (found,) = read(row)
    assert isinstance(found, Conversation), found
    return found


def test_a_chat_row_is_its_question_and_its_answer() -> None:
    row = chat_row()
    row["messages"][-1]["weight"] = 1
    found = only(row)
    assert found.messages == row["messages"][:-1]
    assert (found.answer, found.answer_text, found.tools) == ({"role": "assistant", "content": "Four."}, "Four.", None)


def test_other_formats_are_conversations_too() -> None:
    pair = only(pair_row())
    assert (pair.messages, pair.answer_text) == ([{"role": "user", "content": "Say hello."}], "Hello!")
    plain = only({"prompt": "a", "completion": "b"})
    assert (plain.messages, plain.answer_text) == ([{"role": "user", "content": "a"}], "b")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER]},
        {"messages": [USER], "reference_answer": "b"},
        {"messages": [USER, ANSWER], "id": "row-7"},
        {"messages": [USER, {**ANSWER, "weight": 0}]},
        {"messages": [USER, ANSWER], "tools": None, "parallel_tool_calls": None},
    ],
)
def test_what_only_forbids_training_does_not_forbid_asking(row: Any) -> None:
    assert only(row).messages == [USER]


def test_parts_tools_and_calls_come_with_it() -> None:
    call = {"id": "c7", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    tool = {"type": "function", "function": {"name": "f"}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = only(
        {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "tool_calls": [call]}], "tools": [tool]}
    )
    assert found.messages[0]["content"] == parts
    assert found.tools == [tool]
    assert found.answer is not None
    assert found.answer["tool_calls"][0]["function"]["arguments"] == '{"x": 1}'
    assert found.answer_text is None


def test_legacy_functions_become_tools_whose_results_name_their_call() -> None:
    found = only(
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "42"},
                ANSWER,
            ],
            "functions": [{"name": "f"}],
        }
    )
    call = found.messages[1]["tool_calls"][0]
    assert found.messages[2] == {"role": "tool", "tool_call_id": call["id"], "content": "42"}
    assert found.tools == [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": None},
        {"messages": ["x"]},
        {"messages": [None, ANSWER]},
        {"messages": [{"role": "user", "content": 5}, ANSWER]},
        '{"messages": [], "messages": []}',
        "not json",
        [USER],
        {"text": "a"},
    ],
)
def test_a_row_that_cannot_be_read_says_why(row: Any) -> None:
    good, bad, also = read(chat_row(), row, chat_row())
    assert isinstance(good, Conversation) and isinstance(also, Conversation)
    assert isinstance(bad, Problem)
    assert (bad.line, bad.severity, also.line) == (2, "error", 3)


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    for mark in ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"):
        row = chat_row(f"one{mark}two") if mark in "\u2028\u2029\x85" else chat_row(json.dumps(f"one{mark}two"))
        first, second = read(row, chat_row())
        assert isinstance(first, Conversation) and isinstance(second, Conversation)
        assert first.messages[1] == row["messages"][1]


def test_a_byte_order_mark_and_windows_line_ends_are_nothing() -> None:
    content = b"\xef\xbb\xbf" + b"\r\n".join([json.dumps(chat_row()).encode()] * 2) + b"\r\n\r\n"
    assert len([item for item in read_conversations([content]) if isinstance(item, Conversation)]) == 2
