"""Responses over HTTP: the ledger, the state that is kept, and everything that is refused."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
from sqlalchemy import Row, select

from tests.api.conftest import BASE, NOW, Api
from tests.api.test_broken_off import break_off, listening
from tests.rows import ledger as ledger_rows
from tunery.api.responses.background import LEFT_ALONE_S, end_left_alone
from tunery.domain.responses import StoredResponse
from tunery.jobs.janitor import DAY_S
from tunery.store import responses, tables
from tunery.store.database import read, write
from tunery.store.expiry import remove_old_responses

URL = "/v1/responses"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
def api(make_api: Callable[..., Api], engine_url: str) -> Api:
    return make_api(engine_urls=[engine_url])


@pytest.fixture
def each_api(make_each_api: Callable[..., Api], engine_url: str) -> Api:
    return make_each_api(engine_urls=[engine_url])


def ask(api: Api, headers: dict[str, str] | None = None, **values: Any) -> httpx.Response:
    body = {"model": BASE, "input": "Say something.", "temperature": 0, "max_output_tokens": 16, **values}
    return api.client.post(URL, json=body, headers=headers)


def made(api: Api, **values: Any) -> dict[str, Any]:
    answer = ask(api, **values)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ledger(api: Api) -> Sequence[Row[Any]]:
    with read(api.context.database) as conn:
        return ledger_rows(conn, api.project_id)


USER = {"role": "user", "content": "Tell me more about yourself."}
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
CHOSEN = {"type": "function", "name": "f", "parameters": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
MADE = {"name": "f", "arguments": '{"a": "x"}'}
# What is asked for, as a response and as a chat. Earlier turns stand in the chat alone: `way` says how a response has
# them.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "text": ({"input": "Hi"}, {"messages": [{"role": "user", "content": "Hi"}]}),
    "instructions": (
        {"instructions": "Be brief.", "input": "Hi"},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
    ),
    "developer": (
        {"input": [{"role": "developer", "content": "Be brief."}, USER]},
        {"messages": [{"role": "developer", "content": "Be brief."}, USER]},
    ),
    "parts": (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": text} for text in ("Hi", " you")]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": text} for text in ("Hi", " you")]}]},
    ),
    "an answer": (
        {"input": [USER, {"role": "assistant", "content": "No."}, USER]},
        {"messages": [USER, {"role": "assistant", "content": "No."}, USER]},
    ),
    "tools": ({"input": [USER], "tools": [CHOSEN]}, {"messages": [USER], "tools": [FUNCTION]}),
    "no tool": (
        {"input": [USER], "tools": [CHOSEN], "tool_choice": "none"},
        {"messages": [USER], "tools": [FUNCTION], "tool_choice": "none"},
    ),
    "a call": (
        {"input": [USER], "tools": [CHOSEN], "tool_choice": "required", "parallel_tool_calls": False},
        {"messages": [USER], "tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
    ),
    "its output": (
        {
            "input": [
                USER,
                {"type": "function_call", "call_id": "c", **MADE},
                {"type": "function_call_output", "call_id": "c", "output": "done"},
            ],
            "tools": [CHOSEN],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        },
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "c", "type": "function", "function": MADE}],
                },
                {"role": "tool", "tool_call_id": "c", "content": "done"},
            ],
            "tools": [FUNCTION],
        },
    ),
    "an object": (
        {"input": [USER], "text": {"format": {"type": "json_object"}}},
        {"messages": [USER], "response_format": {"type": "json_object"}},
    ),
    "a schema": (
        {"input": [USER], "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
        {
            "messages": [USER],
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
        },
    ),
}


def said_by_chat(answer: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    message = answer["choices"][0]["message"]
    return message["content"] or "", [call["function"] for call in message.get("tool_calls") or ()]


def said(response: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    texts = [item["content"][0]["text"] for item in response["output"] if item["type"] == "message"]
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    return "".join(texts), [{"name": call["name"], "arguments": call["arguments"]} for call in calls]


def check_that_both_say_the_same(api: Api, asked: dict[str, Any], chat: dict[str, Any]) -> None:
    """Asked for twice as a chat, so that from the second on all find the same in the cache."""
    wanted = {"model": BASE, "temperature": 0, "max_completion_tokens": 48, **chat}
    answers = [api.client.post("/v1/chat/completions", json=wanted).json() for _ in range(2)]
    whole = made(api, max_output_tokens=48, **asked)
    events = ask(api, max_output_tokens=48, stream=True, **asked).text
    last = json.loads(events.strip().splitlines()[-1].removeprefix("data: "))["response"]
    assert said(whole) == said(last) == said_by_chat(answers[1])
    usage = answers[1]["usage"]
    for response in (whole, last):
        assert response["usage"]["input_tokens"] == usage["prompt_tokens"]
        assert response["usage"]["output_tokens"] == usage["completion_tokens"]
        assert (
            response["usage"]["input_tokens_details"]["cached_tokens"]
            == (usage["prompt_tokens_details"]["cached_tokens"])
        )
    bills = [
        (bill.kind, bill.model, bill.input_tokens, bill.cached_tokens, bill.output_tokens, bill.input_cost,
         bill.output_cost)
        for bill in ledger(api)[-3:]
    ]  # fmt: skip
    assert len(bills) == 3 and len(set(bills)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_both_dialects_give_the_same_tokens_and_the_same_bill(api: Api, kind: str) -> None:
    check_that_both_say_the_same(api, *KINDS[kind])


@pytest.mark.parametrize("way", ["input", "references", "previous", "conversation"])
def test_however_earlier_turns_are_kept_they_are_the_same_chat(api: Api, way: str) -> None:
    conversations = [api.client.post("/v1/conversations", json={}).json()["id"] for _ in range(2)]
    firsts = [
        made(api, input=[USER], **({"conversation": one} if way == "conversation" else {})) for one in conversations
    ]
    (answer,) = firsts[0]["output"]
    turns = [USER, {"role": "assistant", "content": answer["content"][0]["text"]}, {"role": "user", "content": "Go on"}]
    if way == "conversation":  # which grows with each response
        chat = {"model": BASE, "temperature": 0, "max_completion_tokens": 16, "messages": turns}
        expected = said_by_chat(api.client.post("/v1/chat/completions", json=chat).json())
        assert said(made(api, input="Go on", conversation=conversations[0])) == expected
        events = ask(api, input="Go on", conversation=conversations[1], stream=True).text
        assert said(json.loads(events.strip().splitlines()[-1].removeprefix("data: "))["response"]) == expected
        return
    earlier: dict[str, list[dict[str, Any]]] = {
        "input": [USER, answer],
        "references": [USER, {"type": "item_reference", "id": answer["id"]}],
        "previous": [],
    }
    previous = firsts[0]["id"] if way == "previous" else None
    asked = {"input": [*earlier[way], turns[2]], "previous_response_id": previous}
    check_that_both_say_the_same(api, asked, {"messages": turns})


def refused(answer: httpx.Response) -> tuple[int, Any, Any]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
        ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
        ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"n": 2}, "n", "unknown_parameter"),
        ({"stop": ["x"]}, "stop", "unknown_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"response_format": {"type": "text"}}, "response_format", "unknown_parameter"),
        ({"max_tokens": 5}, "max_tokens", "unknown_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "unsupported_parameter"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_parameter"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{**TOOL, "name": "not a name"}]}, "tools[0].name", None),
        ({"include": ["everything"]}, "include[0]", "invalid_value"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "missing_required_parameter"),
        ({"input": 7}, "input", "invalid_type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type", None),
        ({"truncation": "middle"}, "truncation", "invalid_value"),
        ({"background": True, "store": False}, "background", "invalid_value"),
        ({"previous_response_id": "resp_nowhere"}, "previous_response_id", "previous_response_not_found"),
        ({"previous_response_id": "no id!"}, "previous_response_id", "invalid_value"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id", None),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, "input", None),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]}, "input", None),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata", None),
        ({"input": "x" * 4000}, "input", "context_length_exceeded"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "nothing"}}}},
            "text.format.schema",
            "invalid_json_schema",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_by_name(api: Api, values: dict[str, Any], param: str, code: str | None) -> None:
    answer = ask(api, **values)
    assert refused(answer)[:2] == (400, param), answer.text
    if code is not None:
        assert refused(answer)[2] == code
    if "stream" not in values:
        assert refused(ask(api, stream=True, **values)) == refused(answer)
    assert not ledger(api)


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"conversation": "conv_nowhere"}, "id"),
        ({"conversation": {"id": "conv_nowhere"}}, "id"),
        ({"input": [{"type": "item_reference", "id": "msg_nowhere"}]}, "input"),
        ({"model": "ft:nobody"}, "model"),
    ],
    ids=str,
)
def test_what_is_not_there_is_404(api: Api, values: dict[str, Any], param: str) -> None:
    assert refused(ask(api, **values))[:2] == (404, param)


def test_what_says_nothing_is_taken(api: Api) -> None:
    """As today's SDKs send it beside what they mean."""
    neutral = {
        "include": ["reasoning.encrypted_content"], "tools": [], "tool_choice": "auto", "parallel_tool_calls": True,
        "reasoning": {"effort": None, "summary": "auto"}, "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "service_tier": "auto", "user": "me", "safety_identifier": "x", "prompt_cache_key": "x", "max_tool_calls": 3,
        "stream_options": {"include_obfuscation": False}, "truncation": "disabled", "metadata": None, "store": None,
        "previous_response_id": None, "conversation": None, "background": False, "prompt": None,
    }  # fmt: skip
    plain, dressed = made(api), made(api, **neutral)
    assert dressed["output"][0]["content"] == plain["output"][0]["content"]


def test_a_response_is_of_its_project_alone(each_api: Api) -> None:
    api = each_api
    first = made(api)
    other = api.as_key(api.make_key(project_id=api.make_project()))
    message = first["output"][0]["id"]
    for path in ("", "/input_items"):
        assert refused(api.client.get(f"{URL}/{first['id']}{path}", headers=other))[:2] == (404, "id")
    assert api.client.delete(f"{URL}/{first['id']}", headers=other).status_code == 404
    assert api.client.post(f"{URL}/{first['id']}/cancel", headers=other).status_code == 404
    theirs = ask(api, headers=other, previous_response_id=first["id"])
    assert refused(theirs) == (400, "previous_response_id", "previous_response_not_found")
    reference = ask(api, headers=other, input=[{"type": "item_reference", "id": message}])
    assert refused(reference)[:2] == (404, "input")
    conversation = api.client.post("/v1/conversations", json={}).json()["id"]
    assert refused(ask(api, headers=other, conversation=conversation))[:2] == (404, "id")
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/items"), ("GET", "/items/msg_1")):
        answer = api.client.request(method, f"/v1/conversations/{conversation}{path}", headers=other)
        assert answer.status_code == 404


def test_what_is_not_stored_cannot_be_found_or_continued(each_api: Api) -> None:
    api = each_api
    first = made(api, store=False)
    assert api.client.get(f"{URL}/{first['id']}").status_code == 404
    assert refused(ask(api, previous_response_id=first["id"]))[2] == "previous_response_not_found"
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    assert refused(ask(api, input=[reference]))[:2] == (404, "input")


def test_a_chain_replays_what_came_before_but_its_instructions(each_api: Api) -> None:
    api = each_api
    first = made(api, instructions="Speak like a pirate.", input="One")
    second = made(api, previous_response_id=first["id"], input="Two")
    other = made(api, previous_response_id=first["id"], input="Another two")  # from any node
    third = made(api, previous_response_id=second["id"], input="Three")
    said = [answer["output"][0]["content"][0]["text"] for answer in (first, second)]
    messages = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": said[0]},
        {"role": "user", "content": "Two"},
        {"role": "assistant", "content": said[1]},
        {"role": "user", "content": "Three"},
    ]
    chat = api.client.post(
        "/v1/chat/completions",
        json={"model": BASE, "messages": messages, "temperature": 0, "max_completion_tokens": 16},
    ).json()
    assert third["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert third["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert other["previous_response_id"] == first["id"]
    items = api.client.get(f"{URL}/{third['id']}/input_items").json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["Three"]
    api.client.delete(f"{URL}/{first['id']}")
    broken = ask(api, previous_response_id=second["id"])
    assert refused(broken)[2] == "previous_response_not_found"
    assert first["id"] in broken.json()["error"]["message"]


def test_a_conversation_is_used_by_one_response_at_a_time(each_api: Api) -> None:
    api = each_api
    conversation = api.client.post("/v1/conversations", json={}).json()["id"]
    long = made(api, conversation=conversation, background=True, max_output_tokens=1500, temperature=1)
    second = ask(api, conversation=conversation)
    assert refused(second) == (409, "conversation", "conversation_locked")
    api.client.post(f"{URL}/{long['id']}/cancel")
    deadline = time.monotonic() + 30
    while (again := ask(api, conversation=conversation)).status_code == 409 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert again.status_code == 200
    assert refused(ask(api, conversation=conversation, input=[{"role": "x"}]))[0] == 400
    assert ask(api, conversation=conversation).status_code == 200  # what is refused holds nothing


def test_truncation_leaves_out_the_oldest(api: Api) -> None:
    items = [{"role": "system", "content": "Be brief."}]
    items += [{"role": "user", "content": f"{number:03} " + "x" * 30} for number in range(100)]
    assert refused(ask(api, input=items))[1:] == ("input", "context_length_exceeded")
    answer = made(api, input=items, truncation="auto")
    assert 1024 < answer["usage"]["input_tokens"] < 2048
    assert len(api.client.get(f"{URL}/{answer['id']}/input_items?limit=200").json()["data"]) == 101
    assert refused(ask(api, input="x" * 4000, truncation="auto"))[1:] == ("input", "context_length_exceeded")
    huge = [{"role": "user", "content": "x" * 300_000}, {"role": "user", "content": "Hi"}]  # never counted as a whole
    assert made(api, input=huge, truncation="auto")["usage"]["input_tokens"] < 100


def test_a_thousand_items_are_one_request(api: Api) -> None:
    items = [{"role": "user", "content": ""} for _ in range(1000)]
    answer = ask(api, input=items, truncation="auto")
    assert answer.status_code == 200, answer.text
    first = api.client.get(f"{URL}/{answer.json()['id']}/input_items?limit=600&order=asc").json()
    rest = api.client.get(
        f"{URL}/{answer.json()['id']}/input_items?limit=600&order=asc&after={first['last_id']}"
    ).json()
    assert (len(first["data"]), first["has_more"], len(rest["data"]), rest["has_more"]) == (600, True, 400, False)


def test_a_client_that_leaves_pays_for_what_was_computed(api: Api) -> None:
    body = {"model": BASE, "input": "Say something.", "max_output_tokens": 1500}
    with listening(api) as url:
        break_off(url, URL, {**body, "stream": True, "temperature": 1}, after=12)
        deadline = time.monotonic() + 30
        while not ledger(api) and time.monotonic() < deadline:
            time.sleep(0.1)
        output = ledger(api)[0].output_tokens
    assert 0 < output < 1500
    deadline = time.monotonic() + 10
    while not (kept := all_responses(api)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [one.status for one in kept] in (["cancelled"], ["completed"])
    assert kept[0].body["usage"]["output_tokens"] == output


def all_responses(api: Api) -> list[StoredResponse]:
    with read(api.context.database) as conn:
        ids = list(conn.scalars(select(tables.responses.c.id)))
        return [responses.get_response(conn, one, api.project_id) for one in ids]


def test_old_responses_go_and_conversations_keep_their_items(each_api: Api) -> None:
    api = each_api
    conversation = api.client.post("/v1/conversations", json={}).json()["id"]
    alone, talked = made(api), made(api, conversation=conversation)
    other = api.client.post("/v1/conversations", json={"items": [{"role": "user", "content": "x"}]}).json()["id"]
    stray = api.client.get(f"/v1/conversations/{other}/items").json()["data"][0]["id"]
    api.client.delete(f"/v1/conversations/{other}")
    assert ask(api, input=[{"type": "item_reference", "id": stray}]).status_code == 200  # items stay for a time
    now = api.clock()
    remove_old_responses(api.context.database, now - 30 * DAY_S)
    assert api.client.get(f"{URL}/{alone['id']}").status_code == 200
    remove_old_responses(api.context.database, now + 1)
    for one in (alone, talked):
        assert api.client.get(f"{URL}/{one['id']}").status_code == 404
    assert len(api.client.get(f"/v1/conversations/{conversation}/items").json()["data"]) == 2
    assert refused(ask(api, input=[{"type": "item_reference", "id": alone["output"][0]["id"]}]))[0] == 404
    assert refused(ask(api, input=[{"type": "item_reference", "id": stray}]))[0] == 404
    reference = {"type": "item_reference", "id": talked["output"][0]["id"]}
    assert ask(api, input=[reference, {"role": "user", "content": "x"}]).status_code == 200


def test_a_background_response_whose_server_was_killed_ends_as_failed(each_api: Api) -> None:
    api = each_api
    body = {**made(api), "status": "in_progress", "id": "resp_orphan", "conversation": None, "usage": None}
    body.pop("output")
    orphan = StoredResponse(
        "resp_orphan", api.project_id, int(NOW), BASE, "in_progress", body, None, None, True, int(NOW)
    )
    item = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c",
        "name": "f",
        "arguments": "{}",
        "status": "completed",
    }
    told = [
        {"type": "response.created", "sequence_number": 0, "response": body},
        {"type": "response.output_item.done", "sequence_number": 1, "output_index": 0, "item": item},
    ]
    with write(api.context.database) as conn:
        responses.insert_response(conn, orphan)
        responses.add_events(conn, orphan.id, told, int(NOW))
    end_left_alone(api.context)
    assert api.client.get(f"{URL}/{orphan.id}").json()["status"] == "in_progress"
    api.clock.now += LEFT_ALONE_S + 1
    end_left_alone(api.context)
    failed = api.client.get(f"{URL}/{orphan.id}").json()
    assert (failed["status"], failed["output"]) == ("failed", [item])
    assert failed["error"]["code"] == "server_error"
    events = api.client.get(f"{URL}/{orphan.id}?stream=true&starting_after=1").text
    assert events.startswith("event: response.failed\n")
    assert '"sequence_number":2' in events


def test_what_is_kept_counts_towards_the_storage_of_its_project(make_api: Callable[..., Api], engine_url: str) -> None:
    api = make_api(engine_urls=[engine_url], max_storage_bytes=6000)
    made(api, input="x" * 900)
    full = ask(api, input="x" * 6000)
    assert refused(full)[1:] == ("store", "storage_limit_exceeded")
    conversation = api.client.post("/v1/conversations", json={}).json()["id"]
    more = {"items": [{"role": "user", "content": "x" * 6000}]}
    answer = api.client.post(f"/v1/conversations/{conversation}/items", json=more)
    assert refused(answer)[1:] == ("items", "storage_limit_exceeded")
    assert made(api, input="x" * 1000, store=False)["status"] == "incomplete"


def test_without_an_engine_nothing_is_kept_and_the_answer_is_503(make_api: Callable[..., Api]) -> None:
    api = make_api()
    conversation = api.client.post("/v1/conversations", json={}).json()["id"]
    for more in ({}, {"stream": True}, {"conversation": conversation}, {"conversation": conversation, "stream": True}):
        assert ask(api, **more).status_code == 503
    assert all_responses(api) == []


def test_a_limit_of_requests_counts_both_dialects(make_api: Callable[..., Api], engine_url: str) -> None:
    api = make_api(engine_urls=[engine_url], requests_per_minute=2)
    assert ask(api).status_code == 200
    chat = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert api.client.post("/v1/chat/completions", json=chat).status_code == 200
    assert ask(api).status_code == 429
    assert ask(api, stream=True).status_code == 429
