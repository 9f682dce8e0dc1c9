"""Items as chats and chats' answers as responses: what each form of the one is in the other."""

from typing import Any

import pytest

from tunery.domain.errors import InvalidRequest, NotFound
from tunery.wire.responses.items import messages_of, num_droppable, read_items, references, resolved, without_oldest
from tunery.wire.responses.reply import Reply, new_response, replayed
from tunery.wire.responses.request import chat_request, own_param

Json = dict[str, Any]

USER = {"role": "user", "content": "Hi"}


def call(call_id: str = "call_1", **more: Any) -> Json:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", **more}


def result(call_id: str = "call_1", output: Any = "done") -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def said(text: str = "Yes.") -> Json:
    """As the SDK echoes it, with keys of its own."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": None, "parsed": None}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": None, "phase": None, "content": [part]}


def tool_call(call_id: str = "call_1") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def tool(call_id: str = "call_1", content: Any = "done") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def answer(content: str | None = "Yes.", *calls: Json) -> Json:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {})}


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ("Hi", [USER]),
        ([{**USER, "type": "message"}], [USER]),
        ([{"role": "developer", "content": [{"type": "input_text", "text": "Hi"}]}], [{**USER, "role": "developer"}]),
        ([USER, said(), USER], [USER, answer(), USER]),
        ([USER, {"role": "assistant", "content": "Yes."}], [USER, answer()]),
        ([said("A"), said("B")], [answer("A"), answer("B")]),
        ([USER, {"type": "reasoning", "id": "rs_1", "summary": []}, said()], [USER, answer()]),
        ([said(), call(parsed_arguments={}, namespace=None), result()], [answer("Yes.", tool_call()), tool()]),
        (
            [call("a"), call("b"), result("b"), result("a")],
            [answer(None, tool_call("a"), tool_call("b")), tool("b"), tool("a")],
        ),
        (
            [call("a"), result("a"), call("a"), result("a")],
            [answer(None, tool_call("a")), tool("a"), answer(None, tool_call("a")), tool("a")],
        ),
        ([call(), USER, result()], [answer(None, tool_call()), tool(), USER]),
        ([call(), result(output=[{"type": "input_text", "text": "done"}])], [answer(None, tool_call()), tool()]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": text} for text in "ab"]}],
            [{"role": "user", "content": [{"type": "text", "text": text} for text in "ab"]}],
        ),
    ],
)
def test_items_say_the_same_as_messages(items: Any, messages: list[Json]) -> None:
    assert messages_of(read_items(items)) == messages


def test_kept_items_have_what_strict_clients_require() -> None:
    user, answered, called, given = read_items([USER, said(), call(), result()])
    assert user["content"] == [{"type": "input_text", "text": "Hi"}]
    assert answered["content"] == [{"type": "output_text", "text": "Yes.", "annotations": [], "logprobs": []}]
    assert answered["id"] == "msg_1"  # what was echoed stays what it was
    assert [item["status"] for item in (user, answered, called, given)] == ["completed"] * 4
    assert user["id"].startswith("msg_") and called["id"].startswith("fc_") and given["id"].startswith("fco_")


@pytest.mark.parametrize(
    ("item", "param", "code"),
    [
        ({"role": "critic", "content": "x"}, "input[1].role", "invalid_value"),
        ({"role": "user"}, "input[1].content", "invalid_type"),
        ({"role": "user", "content": [7]}, "input[1].content[0]", "invalid_type"),
        (
            {"role": "user", "content": [{"type": "input_text"}]},
            "input[1].content[0].text",
            "missing_required_parameter",
        ),
        (
            {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
            "input[1].content[0].type",
            "unsupported_parameter",
        ),
        ({"role": "user", "content": [{"type": "refusal"}]}, "input[1].content[0].type", "invalid_value"),
        ({"type": "function_call", "name": "f", "arguments": "{}"}, "input[1].call_id", "missing_required_parameter"),
        (call(arguments={}), "input[1].arguments", "invalid_type"),
        (result(output=None), "input[1].output", "missing_required_parameter"),
        ({"type": "web_search_call", "id": "ws_1"}, "input[1].type", "invalid_value"),
        ({"type": 5}, "input[1].type", "invalid_value"),
    ],
)
def test_items_that_are_none_are_named_by_their_place(item: Json, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_items([USER, item])
    assert (raised.value.param, raised.value.code) == (param, code)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([call()], "No tool output found for function call call_1."),
        ([call("a"), call("b"), result("a")], "No tool output found for function call b."),
        ([USER, result("x")], "No tool call found for function call output with call_id x."),
        ([result(), call()], "No tool call found for function call output with call_id call_1."),
    ],
)
def test_calls_and_results_come_in_pairs(items: list[Json], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        messages_of(read_items(items))
    assert (raised.value.message, raised.value.param) == (message, "input")


def test_references_are_resolved_or_named() -> None:
    items = read_items([{"type": "item_reference", "id": "msg_1"}, {"id": "msg_2"}, USER])
    assert references(items) == ["msg_1", "msg_2"]
    one, other = read_items([said("A"), said("B")])
    assert messages_of(resolved(items, {"msg_1": one, "msg_2": other})) == [answer("A"), answer("B"), USER]
    with pytest.raises(NotFound, match="msg_2"):
        resolved(items, {"msg_1": one})


def test_the_oldest_go_first_and_calls_go_with_their_results() -> None:
    items = read_items(
        [{"role": "system", "content": "S"}, USER, call("a"), result("a"), said(), {**USER, "content": "last"}]
    )
    assert num_droppable(items) == 3
    left = [[item["type"] for item in without_oldest(items, count)] for count in range(5)]
    assert left[2] == ["message", "message", "message"]
    assert left[3] == left[4] == ["message", "message"]
    assert messages_of(without_oldest(items, 3)) == [{"role": "system", "content": "S"}, {**USER, "content": "last"}]


FUNCTION: Json = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
            },
        ),
    ],
)
def test_tools_are_nested_as_chat_has_them(choice: Any, chosen: Any) -> None:
    body = chat_request({"model": "m", "tools": [FUNCTION], "tool_choice": choice}, read_items("Hi"))
    function = {name: value for name, value in FUNCTION.items() if name != "type"}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == chosen


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [FUNCTION, {"type": "custom", "name": "x"}]}, "tools[1].type"),
        ({"tools": [{**FUNCTION, "colour": "red"}]}, "tools[0].colour"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "g"}, "tools": [FUNCTION]}, "tool_choice"),
        ({"tool_choice": {"type": "file_search"}, "tools": [FUNCTION]}, "tool_choice.type"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}, "tools": [FUNCTION]}, "tool_choice.tools"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
    ],
)
def test_tools_and_formats_that_are_none_are_named(sent: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        chat_request({"model": "m", **sent}, read_items("Hi"))
    assert raised.value.param == param


@pytest.mark.parametrize(
    ("param", "own"),
    [
        ("messages[3].content", "input"),
        ("response_format", "text.format.schema"),
        ("response_format.type", "text.format.type"),
        ("response_format.json_schema.name", "text.format.name"),
        ("max_completion_tokens", "max_output_tokens"),
        ("tools[2].function.parameters", "tools[2].parameters"),
        ("temperature", "temperature"),
        (None, None),
    ],
)
def test_errors_of_the_chat_name_what_was_sent(param: str | None, own: str | None) -> None:
    assert own_param(param) == own


def new_reply() -> Reply:
    return Reply(new_response("resp_1", 1, {"model": "m"}))


def chunk(delta: Json | None = None, finish_reason: str | None = None, **more: Any) -> Json:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish_reason}], **more}


def streamed_call(index: int, call_id: str, *arguments: str) -> list[Json]:
    first = {"index": index, "id": call_id, "type": "function", "function": {"name": "f", "arguments": ""}}
    rest = [{"index": index, "function": {"arguments": piece}} for piece in arguments]
    return [chunk({"tool_calls": [part]}) for part in (first, *rest)]


STREAMS: dict[str, list[Json]] = {
    "text": [chunk({"role": "assistant", "content": ""}), chunk({"content": "Ye"}), chunk({"content": "s. "})],
    "nothing": [chunk({"role": "assistant", "content": ""})],
    "white space": [chunk({"content": "\n"})],
    "a call": streamed_call(0, "call_a", '{"x"', ": 1}"),
    "text, then calls": [
        chunk({"content": "Let me see.\n"}),
        *streamed_call(0, "call_a", "{}"),
        *streamed_call(1, "call_b", "{}"),
        chunk({"content": "\n"}),
    ],
    "a refusal": [chunk({"refusal": "I can"}), chunk({"refusal": "not."})],
}
WHOLE: dict[str, Json] = {
    "text": {"content": "Yes. "},
    "nothing": {"content": ""},
    "white space": {"content": "\n"},
    "a call": {"content": None, "tool_calls": [{"id": "call_a", "function": {"name": "f", "arguments": '{"x": 1}'}}]},
    "text, then calls": {
        "content": "Let me see.",
        "tool_calls": [
            {"id": "call_a", "function": {"name": "f", "arguments": "{}"}},
            {"id": "call_b", "function": {"name": "f", "arguments": "{}"}},
        ],
    },
    "a refusal": {"content": None, "refusal": "I cannot."},
}


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
@pytest.mark.parametrize("case", STREAMS)
def test_streamed_and_whole_answers_make_the_same_response(case: str, finish_reason: str) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    streamed, whole = new_reply(), new_reply()
    events = streamed.begin()
    for piece in [*STREAMS[case], chunk(finish_reason=finish_reason), {"choices": [], "usage": usage}]:
        events += streamed.take(piece)
    events += streamed.end(5)
    whole.begin()
    whole.take({"choices": [{"message": WHOLE[case], "finish_reason": finish_reason}], "usage": usage})
    whole.end(5)
    assert without_ids(streamed.response) == without_ids(whole.response)
    assert streamed.response["status"] == ("completed" if finish_reason == "stop" else "incomplete")
    assert streamed.response["output"][-1]["status"] == streamed.response["status"]
    check_order(events, streamed.response)
    check_order(replayed(streamed.response), streamed.response)


def without_ids(response: Json) -> Json:
    items = [{key: value for key, value in item.items() if key != "id"} for item in response["output"]]
    return {**response, "output": items}


def check_order(events: list[Json], response: Json) -> None:
    """What the official client's own state machine demands."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[-1]["response"] == response
    added = [event for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in added] == [event["output_index"] for event in done]
    assert [event["item"] for event in done] == response["output"]
    for item, begun, over in zip(response["output"], added, done, strict=True):
        assert begun["item"]["id"] == item["id"]
        inside = events[events.index(begun) : events.index(over)]
        deltas = "".join(event["delta"] for event in inside if event["type"].endswith(".delta"))
        text = item.get("arguments")
        if text is None:
            text = item["content"][0].get("text", item["content"][0].get("refusal"))
        assert deltas == text
        assert {event.get("item_id", item["id"]) for event in inside} == {item["id"]}


def test_a_failure_keeps_what_was_said_and_ends_the_stream() -> None:
    reply = new_reply()
    events = reply.begin() + reply.take(chunk({"content": "Hel"}))
    events += reply.take({"error": {"message": "The engine was lost.", "code": "server_is_overloaded"}})
    events += reply.end(5)
    failed = events[-1]
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {
        "code": "server_error", "message": "The engine was lost.", "type": "server_error", "param": None,
    }  # fmt: skip
    assert failed["response"]["output"][0]["content"][0]["text"] == "Hel"
    assert failed["response"]["output"][0]["status"] == "incomplete"


def test_a_response_that_failed_before_it_began_still_begins() -> None:
    assert [event["type"] for event in new_reply().fail("No engine.")] == [
        "response.created", "response.in_progress", "response.failed",
    ]  # fmt: skip
