"""What was stored of either API, as a chat and as a row."""

from typing import Any

import pytest

from tunery.datasets.answers import Exchange, of_completion, of_response, said, training_row
from tunery.domain.completions import StoredCompletion
from tunery.domain.responses import StoredResponse
from tunery.wire.responses.items import message, output_text

ASKED = {"role": "user", "content": "Where?"}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
OLD_CALL = {"name": "find", "arguments": "{}"}


def completion(answer: dict[str, Any] | None, finish_reason: str = "stop", **request: Any) -> Exchange:
    """Of a stored completion; None: it has no choice at all."""
    choices = [] if answer is None else [{"message": {"role": "assistant", **answer}, "finish_reason": finish_reason}]
    sent = {"messages": [ASKED], **request}
    return of_completion(StoredCompletion("chatcmpl-1", "proj_1", 0, "m", request=sent, response={"choices": choices}))


def response(output: list[Any], status: str = "completed", **body: Any) -> Exchange:
    stored = StoredResponse("resp_1", "proj_1", 0, "m", status, body)
    return of_response(stored, [message("user", [{"type": "input_text", "text": "Where?"}])], output)


def spoken(*texts: str) -> dict[str, Any]:
    return message("assistant", [output_text(text, []) for text in texts])


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ({"content": "Here."}, "Here."),
        ({"content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}, {"type": "image_url"}]},
         "a\nb\nimage_url"),
        ({"content": None, "refusal": "No."}, "No."),
        ({"content": None, "tool_calls": [CALL, CALL]}, "find({})\nfind({})"),
        ({"content": "So:", "function_call": OLD_CALL}, "So:\nfind({})"),
        ({"content": "So:", "tool_calls": [CALL], "function_call": None}, "So:\nfind({})"),
        ({"content": None, "tool_calls": None}, ""),
        ({"content": [None, 3, {}]}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_the_words_of_a_message_are_what_a_person_reads(one: dict[str, Any], words: str) -> None:
    assert said(one).strip() == words


@pytest.mark.parametrize(
    ("exchange", "problem"),
    [
        (completion({"content": "Here."}), None),
        (completion({"content": None, "tool_calls": [CALL]}, "tool_calls"), None),
        (completion({"content": None, "function_call": OLD_CALL}, "function_call"), None),
        (completion({"content": None, "refusal": "No."}), None),
        (completion({"content": "He"}, "length"), "cut_off"),
        (completion({"content": ""}, "content_filter"), "cut_off"),
        (completion({"content": ""}), "no_answer"),
        (completion(None), "no_answer"),
        (response([spoken("Here.")]), None),
        (response([]), "no_answer"),
        (response([spoken("He")], "incomplete"), "cut_off"),
        (response([], "failed", error={"code": "x", "message": "It broke."}), "failed"),
        (response([], "cancelled"), "cancelled"),
        (response([], "queued"), "under_way"),
    ],
)
def test_why_an_answer_is_no_row(exchange: Exchange, problem: str | None) -> None:
    assert exchange.problem == problem
    assert exchange.request == {"messages": [ASKED]}


def test_a_row_keeps_tools_and_drops_what_files_have_no_place_for() -> None:
    asked = [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL], "audio": None, "annotations": []}]
    echoed = [*asked, {"role": "tool", "tool_call_id": "call_1", "content": "Rome", "extra": 1}]
    sent = {"messages": echoed, "tools": [TOOL], "functions": [], "parallel_tool_calls": False, "temperature": 1}
    exchange = completion({"content": "In Rome.", "annotations": [], "tool_calls": None}, **sent)
    assert training_row(exchange.request, exchange.answer) == {
        "messages": [
            ASKED,
            {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0},
            {"role": "tool", "tool_call_id": "call_1", "content": "Rome"},
            {"role": "assistant", "content": "In Rome."},
        ],
        "tools": [TOOL],
        "parallel_tool_calls": False,
    }


def test_a_response_is_the_same_row_as_a_chat() -> None:
    tool = {"type": "function", **TOOL["function"], "strict": False}
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "status": "completed", **OLD_CALL}
    made = response([spoken("So:"), call], instructions="Be brief.", tools=[tool], parallel_tool_calls=False)
    answer = {"content": "So:", "tool_calls": [CALL]}
    chat = completion(answer, messages=[{"role": "system", "content": "Be brief."}, ASKED], tools=[TOOL])
    row, other = (training_row(exchange.request, exchange.answer) for exchange in (made, chat))
    assert row.pop("parallel_tool_calls") is False
    row["tools"][0]["function"].pop("strict")
    assert row == other


def test_an_output_without_its_call_is_a_conversation_of_which_a_part_is_gone() -> None:
    stored = StoredResponse("resp_1", "proj_1", 0, "m", "completed", {})
    alone = {"id": "fco_1", "type": "function_call_output", "call_id": "call_1", "status": "completed", "output": "42"}
    exchange = of_response(stored, [alone], [spoken("42.")])
    assert exchange.problem == "earlier_gone" and exchange.texts == ["42", "42."]
