"""What clients of Responses get wrong: each kind has OpenAI's status, `param` and `code`, and leaves nothing behind."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.api.conftest import BASE, NOW, Api
from tests.api.test_broken_off import break_off, listening
from tests.api.test_responses import TOOL, URL, all_responses, ask, ledger, made, refused
from tunery.api.responses import background
from tunery.domain.responses import StoredResponse
from tunery.store import responses
from tunery.store.database import write
from tunery.wire.responses.request import RESPONSES

USER = {"role": "user", "content": "Hi"}
ONE_CALL: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
# An answer that goes on for as long as it may.
ENDLESS: dict[str, Any] = {
    "max_output_tokens": 1900,
    "text": {"format": {"type": "json_schema", "name": "long", "schema": {"type": "string", "minLength": 4000}}},
}
LONG: dict[str, Any] = {"background": True, **ENDLESS}


@pytest.fixture
def api(make_api: Callable[..., Api], engine_url: str) -> Api:
    return make_api(engine_urls=[engine_url])


@pytest.fixture
def each_api(make_each_api: Callable[..., Api], engine_url: str) -> Api:
    return make_each_api(engine_urls=[engine_url])


def called(api: Api, **values: Any) -> tuple[dict[str, Any], str]:
    """A response that is a call, and the call's id."""
    response = made(api, **ONE_CALL, max_output_tokens=200, **values)
    (call,) = response["output"]
    return response, call["call_id"]


def result(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": "done"}


def get(api: Api, path: str) -> httpx.Response:
    return api.client.get(f"{URL}/{path}")


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def new_conversation(api: Api, *items: dict[str, Any]) -> str:
    answer = api.client.post("/v1/conversations", json={"items": list(items)})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


# ---- what came before


def test_what_is_continued_has_ended_however_it_did(each_api: Api) -> None:
    api = each_api
    long = made(api, **LONG)
    for more in ({}, {"stream": True}, {"background": True}):
        assert refused(ask(api, previous_response_id=long["id"], **more)) == (400, "previous_response_id", None)
    api.client.post(f"{URL}/{long['id']}/cancel")
    assert ask(api, previous_response_id=long["id"]).status_code == 200
    body = get(api, long["id"]).json()
    for status in ("failed", "incomplete"):
        ended = {**body, "id": f"resp_{status}", "status": status}
        ended.pop("output")
        row = StoredResponse(ended["id"], api.project_id, int(NOW), BASE, status, ended)
        with write(api.context.database) as conn:
            responses.insert_response(conn, row)
        assert ask(api, previous_response_id=row.id).status_code == 200
    api.client.delete(f"{URL}/{long['id']}")
    gone = (400, "previous_response_id", "previous_response_not_found")
    assert refused(ask(api, previous_response_id=long["id"])) == gone
    count = api.client.post(
        f"{URL}/input_tokens", json={"model": BASE, "input": "x", "previous_response_id": long["id"]}
    )
    assert refused(count) == gone


@pytest.mark.parametrize("way", ["input", "previous", "conversation"])
def test_calls_and_their_outputs_are_found_across_what_came_before(api: Api, way: str) -> None:
    conversation = new_conversation(api) if way == "conversation" else None
    first, call_id = called(api, conversation=conversation)
    before = {
        "input": {},
        "previous": {"previous_response_id": first["id"]},
        "conversation": {"conversation": conversation},
    }[way]
    echoed = first["output"] if way == "input" else []

    def answer(*items: dict[str, Any], **more: Any) -> httpx.Response:
        return ask(api, **before, tools=[TOOL], tool_choice="none", input=[*echoed, *items], **more)

    count = len(all_responses(api))
    for more in ({}, {"stream": True}, {"background": True}, {"truncation": "auto"}):
        without = answer(USER, **more)
        assert refused(without) == (400, "input", None)
        assert without.json()["error"]["message"] == f"No tool output found for function call {call_id}."
        other = answer(result(call_id), result("call_other"), **more)
        assert refused(other) == (400, "input", None)
        assert "call_id call_other" in other.json()["error"]["message"]
    assert len(all_responses(api)) == count
    assert answer(result(call_id)).status_code == 200


def test_a_call_that_is_named_twice_has_as_many_outputs(api: Api) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    assert ask(api, input=[USER, call, result("c"), call, result("c")]).status_code == 200
    assert ask(api, input=[USER, call, call, result("c"), result("c")]).status_code == 200
    assert refused(ask(api, input=[USER, call, call, result("c")])) == (400, "input", None)


# ---- items


def test_an_item_is_there_once(each_api: Api) -> None:
    api = each_api
    said = {**USER, "id": "msg_1"}
    again = refused(ask(api, input=[said, USER, said]))
    assert again == (400, "input", None)
    first = made(api)
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    assert refused(ask(api, input=[reference, USER, reference])) == (400, "input", None)
    conversation = new_conversation(api, said)
    for input_ in ([said], [{"type": "item_reference", "id": "msg_1"}, USER]):
        answer = ask(api, input=input_, conversation=conversation)
        assert refused(answer) == (400, "input", None)
        assert "msg_1" in answer.json()["error"]["message"]
    items = f"/v1/conversations/{conversation}/items"
    for sent in ([said], [{**said, "id": "msg_2"}] * 2):
        assert refused(api.client.post(items, json={"items": sent})) == (400, "items", None)
    assert refused(api.client.post("/v1/conversations", json={"items": [said, said]})) == (400, "items", None)
    assert len(api.client.get(items).json()["data"]) == 1
    assert ask(api, conversation=conversation).status_code == 200


def test_an_id_that_another_project_has_says_nothing_of_it(each_api: Api) -> None:
    api = each_api
    theirs = api.as_key(api.make_key(project_id=api.make_project()))
    mine = made(api)
    (said,) = mine["output"]
    stolen = {**said, "content": [{"type": "output_text", "text": "Other.", "annotations": []}]}
    answer = ask(api, headers=theirs, input=[stolen, USER])
    assert answer.status_code == 200
    kept = api.client.get(f"{URL}/{answer.json()['id']}/input_items?order=asc", headers=theirs).json()["data"]
    assert (kept[0]["id"], kept[0]["content"][0]["text"]) == (said["id"], "Other.")
    assert get(api, mine["id"]).json()["output"] == [said]
    by_reference = made(api, input=[{"type": "item_reference", "id": said["id"]}, USER])
    assert by_reference["output"][0]["content"] == made(api, input=[said, USER])["output"][0]["content"]


def test_reasoning_is_dropped_and_with_it_what_nobody_here_can_read(api: Api) -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA" * 1000}
    with_it = made(api, input=[reasoning, USER], include=["reasoning.encrypted_content"], store=True)
    assert with_it["usage"]["input_tokens"] == made(api, input=[USER])["usage"]["input_tokens"]
    assert len(get(api, f"{with_it['id']}/input_items").json()["data"]) == 1
    assert refused(ask(api, input=[reasoning])) == (400, "input", "missing_required_parameter")


def test_what_refers_to_nothing_is_404_whatever_it_is(each_api: Api) -> None:
    api = each_api
    for name in ("msg_nowhere", "x" * 300, "a\0b", "\u2028", ""):
        assert refused(ask(api, input=[{"type": "item_reference", "id": name}, USER]))[:2] == (404, "input")
    many = [{"type": "item_reference", "id": f"msg_{number}"} for number in range(2048)]
    assert refused(ask(api, input=many))[:2] == (404, "input")


def test_a_request_has_at_most_so_many_items(api: Api) -> None:
    too_many = [{"type": "item_reference", "id": f"msg_{number}"} for number in range(2049)]
    for path, body in ((URL, {}), (f"{URL}/input_tokens", {})):
        answer = api.client.post(path, json={"model": BASE, "input": too_many, **body})
        assert refused(answer) == (400, "input", "array_above_max_length")
    assert refused(ask(api, input=[USER] * 100_000))[0] == 400
    parts = [{"type": "input_text", "text": ""}] * 30_000
    assert ask(api, input=[{"role": "user", "content": parts}]).status_code in (200, 400)


# ---- values


SHAPES: list[tuple[str, Any, str]] = [
    ("input", {}, "input"),
    ("input", [7], "input[0]"),
    ("input", [[USER]], "input[0]"),
    ("input", [{"role": "user", "content": {}}], "input[0].content"),
    ("input", [{"role": "user", "content": [[]]}], "input[0].content[0]"),
    ("input", [{"role": "user", "content": [{"type": "input_text", "text": 7}]}], "input[0].content[0].text"),
    ("input", [{"type": "function_call_output", "call_id": 7, "output": ""}], "input[0].call_id"),
    ("input", [{"type": "function_call_output", "call_id": "c", "output": {}}], "input[0].output"),
    ("input", [{"type": "item_reference", "id": 7}], "input[0].id"),
    ("instructions", [USER], "instructions"),
    ("previous_response_id", 7, "previous_response_id"),
    ("conversation", 7, "conversation"),
    ("conversation", {"id": 7}, "conversation"),
    ("conversation", {}, "conversation"),
    ("store", "yes", "store"),
    ("stream", 1, "stream"),
    ("background", "true", "background"),
    ("metadata", [], "metadata"),
    ("metadata", {"a": 1}, "metadata.a"),
    ("temperature", "hot", "temperature"),
    ("max_output_tokens", 16.5, "max_output_tokens"),
    ("text", "json", "text"),
    ("text", {"format": "json_object"}, "text.format"),
    ("text", {"colour": "red"}, "text.colour"),
    ("text", {"format": {"type": "json_schema", "name": 7, "schema": {}}}, "text.format.name"),
    ("text", {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": 7}}, "text.format.strict"),
    ("tools", {}, "tools"),
    ("tools", ["web_search"], "tools[0]"),
    ("tools", [{**TOOL, "parameters": "none"}], "tools[0].parameters"),
    ("tools", [{**TOOL, "strict": "no"}], "tools[0].strict"),
    ("tools", [{**TOOL, "description": 7}], "tools[0].description"),
    ("tool_choice", 7, "tool_choice"),
    ("parallel_tool_calls", "no", "parallel_tool_calls"),
    ("include", "logprobs", "include"),
    ("include", [7], "include[0]"),
    ("reasoning", "high", "reasoning"),
    ("truncation", True, "truncation"),
]


@pytest.mark.parametrize(("name", "value", "param"), SHAPES, ids=str)
def test_what_has_another_shape_is_named(api: Api, name: str, value: Any, param: str) -> None:
    answer = ask(api, **{"tools": [TOOL], name: value})
    assert refused(answer)[:2] == (400, param), answer.text
    assert all_responses(api) == []


@pytest.mark.parametrize(
    ("metadata", "param", "code"),
    [
        ({str(number): "x" * 512 for number in range(17)}, "metadata", "object_above_max_properties"),
        ({"x" * 65: ""}, None, None),
        ({"a": "x" * 513}, "metadata.a", "string_above_max_length"),
        ({"a": None}, "metadata.a", "invalid_type"),
    ],
)
def test_metadata_has_openais_bounds(api: Api, metadata: Any, param: str | None, code: str | None) -> None:
    answer = ask(api, metadata=metadata)
    assert answer.status_code == 400
    assert param is None or refused(answer)[1] == param
    assert code is None or refused(answer)[2] == code
    largest = {f"{number:064}": "x" * 512 for number in range(16)}
    assert made(api, metadata=largest)["metadata"] == largest


SCHEMAS: list[Any] = [
    {"type": "nothing"},
    {"type": "object", "properties": 7},
    {"$ref": "#/$defs/missing"},
    {"type": "string", "pattern": "("},
    {"type": "string", "pattern": "(a{1000}){1000}"},
    {"type": "object", "properties": {"x" * 6000: {}}},
]


# Without `strict` a schema is held as far as it can be.
HELD_IN_PART = ({"$ref": "#/$defs/missing"}, {"type": "string", "pattern": "("})


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
def test_a_schema_that_no_grammar_can_be_made_of(api: Api, schema: Any, strict: bool) -> None:
    shape = {"type": "json_schema", "name": "n", "schema": schema, "strict": strict}
    parameters = {"type": "object", "properties": {"x": schema}, "required": ["x"], "additionalProperties": False}
    tool = {**TOOL, "parameters": parameters, "strict": strict}
    for stream in (True, False):
        answer = ask(api, text={"format": shape}, stream=stream)
        if not strict and schema in HELD_IN_PART:
            assert answer.status_code == 200
            continue
        assert refused(answer) == (400, "text.format.schema", "invalid_json_schema"), answer.text
        answer = ask(api, tools=[tool], tool_choice="required", stream=stream)
        assert refused(answer) == (400, "tools[0].parameters", "invalid_function_parameters"), answer.text
    assert schema in HELD_IN_PART or not ledger(api)


def test_what_the_engine_refuses_ends_a_background_response_with_the_reason(api: Api) -> None:
    shape = {"type": "json_schema", "name": "n", "schema": SCHEMAS[0]}
    for values in ({"text": {"format": shape}}, {"input": "x" * 4000}):
        begun = made(api, background=True, **values)
        wait_until(lambda begun=begun: get(api, begun["id"]).json()["status"] == "failed")
        error = get(api, begun["id"]).json()["error"]
        assert error["code"] == "invalid_prompt" and error["message"]
    assert not ledger(api)


# ---- too long


def test_truncation_keeps_instructions_tools_and_the_end(api: Api) -> None:
    items = [{"role": "user", "content": f"{number:03} " + "x" * 100} for number in range(40)]
    kept: dict[str, Any] = {"instructions": "Be brief.", "tools": [TOOL], "tool_choice": "none"}
    cut = made(api, input=items, truncation="auto", **kept)
    answers = (made(api, input=items[count:], **kept) for count in range(39, 0, -1))
    explicit = next(one for one in answers if one["usage"]["input_tokens"] >= cut["usage"]["input_tokens"])
    assert explicit["usage"]["input_tokens"] == cut["usage"]["input_tokens"]
    assert explicit["output"][0]["content"] == cut["output"][0]["content"]
    assert refused(ask(api, input=items, **kept)) == (400, "input", "context_length_exceeded")
    for more in ({"instructions": "x" * 4000}, {"tools": [{**TOOL, "description": "x" * 4000}]}):
        answer = ask(api, input=items, truncation="auto", **{**kept, "tool_choice": "auto", **more})
        assert refused(answer)[::2] == (400, "context_length_exceeded")


def test_a_chain_that_is_too_long_is_cut_from_its_oldest(api: Api) -> None:
    first = made(api, input="a" * 900)
    second = made(api, input="b" * 900, previous_response_id=first["id"], truncation="auto")
    third = ask(api, input="c" * 300, previous_response_id=second["id"])
    assert refused(third) == (400, "input", "context_length_exceeded")
    assert made(api, input="c" * 300, previous_response_id=second["id"], truncation="auto")["usage"]["input_tokens"]


# ---- clients that leave, and what they come back for


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_conversation(api: Api, stream: bool) -> None:
    conversation = new_conversation(api)
    body = {"model": BASE, "input": "Hi", **ENDLESS, "conversation": conversation}
    with listening(api) as url:
        break_off(url, URL, {**body, "stream": stream}, after=6 if stream else None)
        wait_until(lambda: bool(all_responses(api)))
    (left,) = all_responses(api)
    (bill,) = ledger(api)
    assert left.body["usage"]["output_tokens"] == bill.output_tokens < 1900
    assert left.status == "cancelled"
    assert ask(api, conversation=conversation).status_code == 200
    assert len(api.client.get(f"/v1/conversations/{conversation}/items").json()["data"]) == 2


def test_what_runs_can_be_deleted(each_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WRITE_EVERY_S", 0.02)  # the answer takes a second: it is seen in its midst
    api = each_api
    conversation = new_conversation(api)
    long = made(api, **LONG, conversation=conversation)
    wait_until(lambda: get(api, long["id"]).json()["status"] == "in_progress")
    assert api.client.delete(f"{URL}/{long['id']}").status_code == 200
    for path in (long["id"], f"{long['id']}?stream=true", f"{long['id']}/input_items"):
        assert refused(get(api, path))[:2] == (404, "id")
    assert refused(api.client.post(f"{URL}/{long['id']}/cancel"))[:2] == (404, "id")
    wait_until(lambda: len(ledger(api)) == 1)
    assert ledger(api)[0].output_tokens < 1900
    wait_until(lambda: ask(api, conversation=conversation).status_code == 200)
    assert len(api.client.get(f"/v1/conversations/{conversation}/items").json()["data"]) == 2


@pytest.mark.parametrize("background", [True, False])
def test_behind_the_last_event_is_nothing(each_api: Api, background: bool) -> None:
    api = each_api
    response = made(api, background=background)
    wait_until(lambda: get(api, response["id"]).json()["status"] == "incomplete")
    for after in (10_000, 2**63 - 1):
        answer = get(api, f"{response['id']}?stream=true&starting_after={after}")
        assert (answer.status_code, answer.text) == (200, "")
    for after in (-2, 2**63, 10**40, "last"):
        answer = get(api, f"{response['id']}?stream=true&starting_after={after}")
        assert refused(answer)[:2] == (400, "starting_after")


def test_what_was_not_streamed_can_be_followed_all_the_same(api: Api) -> None:
    for values in ({}, {**ONE_CALL, "max_output_tokens": 200}, {"include": ["message.output_text.logprobs"]}):
        response = made(api, **values)
        lines = get(api, f"{response['id']}?stream=true").text.splitlines()
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["response"] == response
        first = events[0]["response"]
        assert (first["status"], first["usage"], first["incomplete_details"]) == ("in_progress", None, None)
        rest = get(api, f"{response['id']}?stream=true&starting_after=3").text
        assert rest.count("event: ") == len(events) - 4
    assert get(api, response["id"]).json() == response
    again = api.client.post(f"{URL}/{response['id']}/cancel")
    assert refused(again) == (400, None, None)


# ---- the table of parameters


SAMPLES: dict[str, Any] = {
    "input": "Hi",
    "model": BASE,
    "instructions": "Be brief.",
    "previous_response_id": None,  # below
    "conversation": None,
    "store": False,
    "metadata": {"a": "b"},
    "temperature": 0.5,
    "top_p": 0.5,
    "top_logprobs": 2,
    "max_output_tokens": 17,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tools": [TOOL],
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "truncation": "auto",
    "include": ["message.output_text.logprobs"],
    "stream": True,
    "background": True,
    "reasoning": {"effort": "none"},
    "prompt": {"id": "pmpt_1"},
    "stream_options": {"include_obfuscation": True},
    "access_programs": ["x"],
    "background_options": {"window": "2h"},
    "context_management": [{"type": "compaction"}],
    "image": {"x": 1},
    "max_tool_calls": 2,
    "moderation": {"model": "omni-moderation-latest"},
    "prompt_cache_key": "x",
    "prompt_cache_options": {"ttl": "12h"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "x",
    "service_tier": "flex",
    "user": "x",
}


def test_the_table_of_parameters_says_what_becomes_of_each(api: Api) -> None:
    assert SAMPLES.keys() == RESPONSES.keys()
    plain = made(api)
    samples = {**SAMPLES, "previous_response_id": plain["id"], "conversation": new_conversation(api)}
    for name, parameter in RESPONSES.items():
        answer = ask(api, **{name: samples[name]})
        if parameter.state == "refused":
            assert refused(answer) == (400, name, "unsupported_parameter")
            continue
        assert answer.status_code == 200, answer.text
        if parameter.state == "ignored":
            assert answer.json()["output"][0]["content"] == plain["output"][0]["content"], name
        elif name != "stream":
            told = answer.json()
            if name == "conversation":
                assert told[name] == {"id": samples[name]}
            elif name == "reasoning":
                assert told[name]["effort"] == "none"
            elif name == "tools":
                assert told[name][0]["name"] == "f"
            elif name == "text":
                assert told[name] == samples[name]
            elif name not in ("input", "include"):
                assert told[name] == samples[name], name
