"""What was sent and answered is retrieved to the character, U+0000 included, from both databases."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.api.conftest import BASE, Api

CHAT, RESPONSES, CONVERSATIONS = "/v1/chat/completions", "/v1/responses", "/v1/conversations"
ODD = "a\0b \\u0000 \u2028 \ufffd \U0001f600"


@pytest.fixture
def api(make_each_api: Callable[..., Api], engine_url: str) -> Api:
    return make_each_api(engine_urls=[engine_url])


@pytest.fixture
def nul(engine_url: str) -> str:
    """The token that says U+0000, as a bias names it."""
    body = {"prompt": "\0", "add_special_tokens": False}
    return str(httpx.post(f"{engine_url}/tokenize", json=body).json()["tokens"][0])


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = (line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: {"))
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("stream", [False, True])
def test_of_completions(api: Api, nul: str, stream: bool) -> None:
    messages = [{"role": "assistant", "content": ODD}, {"role": "user", "content": "\0"}]
    asked = {"model": BASE, "messages": messages, "max_tokens": 3, "logit_bias": {nul: 100}, "store": True}
    answer = api.client.post(CHAT, json={**asked, "stream": stream, "metadata": {"team": "a"}})
    assert answer.status_code == 200, answer.text
    if stream:
        chunks = events(answer)
        said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
        made = chunks[0]["id"]
    else:
        said, made = answer.json()["choices"][0]["message"]["content"], answer.json()["id"]
    assert said == "\0\0\0"
    assert ok(api.client.get(f"{CHAT}/{made}"))["choices"][0]["message"]["content"] == said
    kept = ok(api.client.get(f"{CHAT}/{made}/messages"))["data"]
    assert [message["content"] for message in kept] == [ODD, "\0"]
    listed = ok(api.client.get(CHAT, params={"metadata[team]": "a"}))["data"]
    assert listed[0]["choices"][0]["message"]["content"] == said


@pytest.mark.parametrize("how", [{}, {"stream": True}, {"background": True}])
def test_of_responses(api: Api, how: dict[str, bool]) -> None:
    items = [
        {"role": "user", "content": ODD},
        {"role": "assistant", "content": [{"type": "output_text", "text": "\0"}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": json.dumps({"a": "\0"})},
        {"type": "function_call_output", "call_id": "call_1", "output": "\0"},
    ]
    asked = {"model": BASE, "input": items, "instructions": ODD, "max_output_tokens": 16, "temperature": 0}
    answer = api.client.post(RESPONSES, json={**asked, **how})
    assert answer.status_code == 200, answer.text
    said = events(answer)[-1]["response"] if "stream" in how else answer.json()
    kept = ended(api, said["id"])
    assert kept["instructions"] == ODD
    if "background" not in how:
        assert kept["output"] == said["output"]
    own = ok(api.client.get(f"{RESPONSES}/{said['id']}/input_items", params={"order": "asc"}))["data"]
    assert [item["content"][0]["text"] for item in own[:2]] == [ODD, "\0"]
    assert json.loads(own[2]["arguments"]) == {"a": "\0"} and own[3]["output"] == "\0"
    again = ok(api.client.post(RESPONSES, json={**asked, "previous_response_id": said["id"], "input": "\0"}))
    assert again["status"] in ("completed", "incomplete")


def ended(api: Api, response_id: str) -> dict[str, Any]:
    while (kept := ok(api.client.get(f"{RESPONSES}/{response_id}")))["status"] in ("queued", "in_progress"):
        time.sleep(0.05)
    return kept


def test_of_conversations(api: Api) -> None:
    first = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ODD}]}
    conversation = ok(api.client.post(CONVERSATIONS, json={"items": [first]}))["id"]
    added = ok(api.client.post(f"{CONVERSATIONS}/{conversation}/items", json={"items": [{**first, "content": "\0"}]}))
    item = added["data"][0]
    assert ok(api.client.get(f"{CONVERSATIONS}/{conversation}/items/{item['id']}")) == item
    asked = {"model": BASE, "conversation": conversation, "input": "\0", "max_output_tokens": 16, "temperature": 0}
    said = ok(api.client.post(RESPONSES, json=asked))["output"]
    listed = ok(api.client.get(f"{CONVERSATIONS}/{conversation}/items", params={"order": "asc"}))["data"]
    assert [item["content"][0]["text"] for item in listed[:3]] == [ODD, "\0", "\0"]
    assert listed[3:] == said


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (RESPONSES, {"input": "x", "metadata": {"a": "\0"}}, "metadata.a"),
        (RESPONSES, {"input": "x", "metadata": {"\0": "a"}}, None),
        (CHAT, {"messages": [{"role": "user", "content": "x"}], "store": True, "metadata": {"a": "\0"}}, "metadata.a"),
        (CONVERSATIONS, {"metadata": {"a": "\0"}}, "metadata.a"),
    ],
)
def test_what_is_searched_has_none(api: Api, path: str, body: dict[str, Any], param: str | None) -> None:
    model = {} if path == CONVERSATIONS else {"model": BASE}
    answer = api.client.post(path, json={**model, **body})
    assert answer.status_code == 400 and "U+0000" in answer.json()["error"]["message"], answer.text
    assert param is None or answer.json()["error"]["param"] == param


@pytest.mark.parametrize("reference", ["\0", "msg_\0", "msg_1 ", "x" * 300])
def test_references_that_can_be_no_id_find_nothing(api: Api, reference: str) -> None:
    items = [{"type": "item_reference", "id": reference}]
    for path, body in ((RESPONSES, {"model": BASE, "input": items}), (CONVERSATIONS, {"items": items})):
        answer = api.client.post(path, json=body)
        assert answer.status_code == 404, answer.text
