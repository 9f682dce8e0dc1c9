"""A training file of a batch: the prompts of its input, the answers of its output."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.conftest import BASE, NOW, Api
from tests.api.test_batches import as_file, create, worked
from tests.rows import store_batch, store_response
from tunery.domain.batches import Batch, BatchStatus
from tunery.domain.tenants import Role
from tunery.store import files
from tunery.store.database import write
from tunery.wire.responses.items import message, output_text

LABEL = {
    "type": "object",
    "properties": {"label": {"enum": ["yes"]}},
    "required": ["label"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}

Pair = tuple[dict[str, Any], Any]


def chat_pair(question: Any, answer: Any, finish_reason: str = "stop", **request: Any) -> Pair:
    messages = question if isinstance(question, list) else [{"role": "user", "content": question}]
    said = answer if isinstance(answer, dict) else {"content": answer}
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "refusal": None} | said}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": BASE, "choices": [choice]}
    return {"model": BASE, "messages": messages, **request}, body


def text_pair(prompt: Any, text: str, finish_reason: str = "stop", **request: Any) -> Pair:
    choice = {"index": 0, "finish_reason": finish_reason, "text": text, "logprobs": None}
    body = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": BASE, "choices": [choice]}
    return {"model": BASE, "prompt": prompt, **request}, body


def response_pair(asked: Any, text: str, status: str = "completed", **request: Any) -> Pair:
    output = [message("assistant", [output_text(text, [])])]
    body = {"id": "resp_1", "object": "response", "created_at": 1, "model": BASE, "status": status, "output": output}
    echoed = {name: request.get(name) for name in ("instructions", "tools")}
    return {"model": BASE, "input": asked, **request}, body | echoed


def keep(server: Api, *pairs: Pair | tuple[Any, str], **values: Any) -> Batch:
    with write(server.engine) as conn:
        return store_batch(conn, server.context.blobs, server.project_id, pairs, **values)


def rows(server: Api, batch_id: str, **body: Any) -> tuple[list[Any], dict[str, int], dict[str, Any]]:
    """Of the file that is made, how many were left out by reason, and the whole answer."""
    answer = server.client.post(f"/tunery/v1/batches/{batch_id}/dataset", json=body)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    content = server.client.get(f"/v1/files/{made['file']['id']}/content").text
    left_out = {each["reason"]: each["count"] for each in made["left_out"]}
    return [json.loads(line) for line in content.splitlines()], left_out, made


def turns(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_chats_become_rows_and_what_failed_is_counted(api: Api) -> None:
    earlier = [*turns("Hi", "Hello."), {"role": "user", "content": "Find it."}]
    batch = keep(
        api,
        (chat_pair("bad", "")[0], "refused"),
        chat_pair("One?", "1", temperature=0.2, max_completion_tokens=9),
        (chat_pair("bad", "")[0], "refused"),
        chat_pair("Two?", "2", finish_reason="length"),
        chat_pair(earlier, {"content": None, "tool_calls": [CALL]}, finish_reason="tool_calls", tools=[TOOL]),
        chat_pair("Silent?", ""),
        (chat_pair("bad", "")[0], "refused"),
    )
    found, left_out, made = rows(api, batch.id)
    assert [row["messages"][0]["content"] for row in found] == ["One?", "Hi"]
    assert found[0] == {"messages": turns("One?", "1")}
    assert found[1]["tools"] == [TOOL] and found[1]["messages"][-1]["tool_calls"] == [CALL]
    assert found[1]["messages"][1]["weight"] == 0
    assert left_out == {"failed": 3, "cut_off": 1, "no_answer": 1}
    file = made["file"]
    assert (made["num_rows"], file["purpose"], file["filename"]) == (2, "fine-tune", f"{batch.id}.jsonl")
    assert rows(api, batch.id, filename="mine.jsonl")[2]["file"]["filename"] == "mine.jsonl"


def test_text_completions_are_chats_where_the_prompt_is_one_text(api: Api) -> None:
    pairs = [
        text_pair("Once", " upon"),
        text_pair(["Twice"], " told"),
        text_pair("Echo", "Echo, echo", echo=True),
        text_pair(["a", "b"], "c"),
        text_pair([1, 2, 3], "c"),
        text_pair("Long", "L", finish_reason="length"),
    ]
    found, left_out, _ = rows(api, keep(api, *pairs, endpoint="/v1/completions").id)
    assert [row["messages"] for row in found] == [
        turns("Once", " upon"),
        turns("Twice", " told"),
        turns("Echo", ", echo"),
    ]
    assert left_out == {"not_one_text": 2, "cut_off": 1}


def test_responses_become_rows_with_what_came_before_where_it_is_kept(api: Api) -> None:
    items = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "?"},
    ]
    with write(api.engine) as conn:
        first = store_response(conn, api.project_id, "First?", "1.", created_at=int(NOW), model=BASE)
        second = store_response(
            conn, api.project_id, "Second?", "2.", created_at=int(NOW), model=BASE, previous_response_id=first
        )
    asked, answered = response_pair("Second?", "2.", previous_response_id=first)
    batch = keep(
        api,
        response_pair("Plain?", "Yes.", instructions="Be brief."),
        response_pair(items, "There.", tools=[{"type": "function", **TOOL["function"]}]),
        response_pair("Long?", "L", status="incomplete"),
        (asked, answered | {"id": second}),
        (asked, answered | {"id": "resp_gone"}),
        (response_pair("bad", "")[0], "refused"),
        endpoint="/v1/responses",
    )
    found, left_out, _ = rows(api, batch.id)
    assert found[0]["messages"] == [{"role": "system", "content": "Be brief."}, *turns("Plain?", "Yes.")]
    assert [each["content"] for each in found[1]["messages"]] == ["Hi", "Hello.", "?", "There."]
    assert found[1]["tools"][0]["function"]["name"] == "find"
    assert [each["content"] for each in found[2]["messages"]] == ["First?", "1.", "Second?", "2."]
    assert left_out == {"cut_off": 1, "earlier_gone": 1, "failed": 1}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/chat/completions", {"response_format": {"type": "json_schema"}, "max_completion_tokens": 100}),
        ("/v1/responses", {"text": {"format": {"type": "json_schema"}}, "max_output_tokens": 100, "store": False}),
    ],
)
def test_what_an_engine_answered_is_what_is_learned(
    make_api: Callable[..., Api], engine_url: str, endpoint: str, body: dict[str, Any]
) -> None:
    schema = {"name": "label", "strict": True, "schema": LABEL}
    if "text" in body:
        body = {**body, "text": {"format": {"type": "json_schema", **schema}}, "input": "Spam?"}
    else:
        messages = [{"role": "user", "content": "Spam?"}]
        body = {**body, "response_format": {"type": "json_schema", "json_schema": schema}, "messages": messages}
    api = make_api(engine_urls=[engine_url])
    lines = [
        {"custom_id": str(n), "method": "POST", "url": endpoint, "body": {"model": BASE, "temperature": t, **body}}
        for n, t in enumerate((0, 9, 0))
    ]
    batch = worked(api, create(api, as_file([lines[0], b"", *lines[1:]]), endpoint))
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}, batch
    found, left_out, _ = rows(api, batch["id"])
    assert left_out == {"failed": 1} and len(found) == 2
    for row in found:
        question, answer = row["messages"]
        assert question == {"role": "user", "content": "Spam?"} and json.loads(answer["content"]) == {"label": "yes"}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"endpoint": "/v1/embeddings"}, "embeds texts"),
        *(
            ({"status": each}, f"status is '{each}'")
            for each in ("validating", "in_progress", "finalizing", "cancelling")
        ),
        ({"status": "failed", "output_file_id": None}, "failed and answered nothing"),
        ({"status": "cancelled", "output_file_id": None}, "cancelled and answered nothing"),
    ],
)
def test_what_no_training_file_can_be_made_of_is_refused(api: Api, values: dict[str, Any], text: str) -> None:
    values = values | ({"status": BatchStatus(values["status"])} if "status" in values else {})
    batch = keep(api, chat_pair("One?", "1"), **values)
    answer = api.client.post(f"/tunery/v1/batches/{batch.id}/dataset", json={})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert text in answer.json()["error"]["message"]
    assert api.client.get("/v1/files", params={"purpose": "fine-tune"}).json()["data"] == []


@pytest.mark.parametrize("name", ["input_file_id", "output_file_id"])
def test_a_file_that_is_gone_is_named(api: Api, name: str) -> None:
    batch = keep(api, chat_pair("One?", "1"))
    gone = getattr(batch, name)
    with write(api.engine) as conn:
        files.delete_file(conn, gone, api.project_id)
    answer = api.client.post(f"/tunery/v1/batches/{batch.id}/dataset", json={})
    assert answer.status_code == 400 and gone in answer.json()["error"]["message"]


def test_nothing_that_can_be_a_row_makes_no_file(api: Api) -> None:
    batch = keep(api, chat_pair("One?", "1", finish_reason="length"))
    answer = api.client.post(f"/tunery/v1/batches/{batch.id}/dataset", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_rows")


def test_only_those_of_the_project_who_may_write_files_make_one(api: Api) -> None:
    path = f"/tunery/v1/batches/{keep(api, chat_pair('One?', '1')).id}/dataset"
    neighbour = api.as_key(api.make_key(project_id=api.make_project(), role=Role.OWNER))
    assert api.client.post(path, json={}, headers=neighbour).status_code == 404
    assert api.client.post(path, json={}, headers=api.as_key(api.make_stranger())).status_code == 404
    reader = api.as_key(api.make_key(role=Role.READER))
    assert api.client.post(path, json={}, headers=reader).status_code == 403
    writer = api.as_key(api.make_key(scopes=("api.files.write",)))
    assert api.client.post(path, json={}, headers=writer).status_code == 403  # who may not look at batches
    assert api.client.get("/v1/files", params={"purpose": "fine-tune"}).json()["data"] == []
