"""Stored answers of both APIs as one list, in full, and as a training file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import BASE, NOW, Api
from tests.rows import store_completion, store_response
from tunery.api.tunery.answers import service
from tunery.domain.responses import Conversation
from tunery.domain.tenants import Role
from tunery.store import conversations, responses
from tunery.store.database import write
from tunery.wire.responses.items import message, output_text

URL = "/tunery/v1/stored_answers"
AT = int(NOW)
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}


@pytest.fixture
def api(make_api: Callable[..., Api], base_model_dir: Path) -> Api:
    """With the base's tokenizer at hand, by which a preview counts."""
    return make_api(model_cache=base_model_dir.parent)


def keep(api: Api, kind: str, question: Any, answer: Any, **values: Any) -> str:
    store = store_completion if kind == "chat" else store_response
    with write(api.engine) as conn:
        return store(conn, api.project_id, question, answer, **{"created_at": AT, "model": BASE} | values)


def listed(server: Api, **query: Any) -> dict[str, Any]:
    answer = server.client.get(URL, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def dataset(server: Api, **body: Any) -> tuple[list[Any], dict[str, int], dict[str, Any]]:
    """Rows, how many were left out by reason, and the whole answer."""
    answer = server.client.post(f"{URL}/dataset", json=body)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    content = server.client.get(f"/v1/files/{made['file']['id']}/content").text
    return (
        [json.loads(line) for line in content.splitlines()],
        {e["reason"]: e["count"] for e in made["left_out"]},
        made,
    )


def preview(server: Api, **body: Any) -> dict[str, Any]:
    answer = server.client.post(f"{URL}/preview", json=body)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text.strip().split("\n\n")[-1].split("data: ", 1)[1])


def input_items(*texts: str) -> list[Any]:
    return [message("user", [{"type": "input_text", "text": text}]) for text in texts]


def output_call() -> dict[str, Any]:
    return {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", **CALL["function"]}


def test_a_list_shows_both_kinds_with_their_cost_and_weights(api: Api) -> None:
    chat = keep(api, "chat", "How are you?", "Fine.", metadata={"team": "a"})
    response = keep(api, "responses", "And now?", None, status="failed", body={"error": {"message": "broken"}})
    gone = keep(api, "chat", "Old?", "Yes.", model="ft:gone:me::AbCd1234", created_at=AT - 1)
    page = listed(api)
    by_id = {one["id"]: one for one in page["data"]}
    assert set(by_id) == {chat, response, gone} and page["has_more"] is False and page["next"] is None
    first = by_id[chat]
    assert (first["asked"], first["answered"], first["metadata"]) == ("How are you?", "Fine.", {"team": "a"})
    assert first["usage"] == {"input_tokens": 7, "cached_tokens": 2, "output_tokens": 5}
    price = api.context.prices.price_of(BASE, NOW)
    cost = (5 * price.input + 2 * price.cached_input + 5 * price.output) / 1e12
    assert first["cost"] == pytest.approx(cost) and cost > 0
    assert first["answered_by"] == BASE and first["weights"] and first["problem"] is None
    assert (by_id[response]["status"], by_id[response]["problem"]) == ("failed", "failed")
    assert (by_id[gone]["answered_by"], by_id[gone]["weights"]) == (None, None)
    assert api.client.get(f"{URL}/{response}").json()["error"] == "broken"
    assert listed(api, api="chat", until=AT)["data"] == [by_id[gone]]
    assert [one["id"] for one in listed(api, **{"metadata[team]": "a"})["data"]] == [chat]
    counts = api.client.get(f"{URL}/counts", params={"since": AT}).json()["data"]
    assert counts == [{"model": BASE, "day": AT // 86_400 * 86_400, "num_answers": 2}]


def test_an_alias_tells_what_answers_to_it(api: Api) -> None:
    tuned = api.make_model()
    api.client.post("/tunery/v1/aliases", json={"name": "ft:old:me::AbCd1234", "target": tuned.name})
    keep(api, "chat", "q", "a", model="ft:old:me::AbCd1234")
    assert listed(api)["data"][0]["answered_by"] == tuned.name


def test_pages_meet_and_a_search_goes_on_where_it_stopped(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        keep(api, "chat" if number % 2 else "responses", f"number {number}", "Straße", created_at=AT + number)
    needle = keep(api, "responses", "The Needle", "x", created_at=AT - 1)
    monkeypatch.setattr(service, "MAX_SEARCHED", 3)
    found: list[str] = []
    after, asked = None, 0
    while asked == 0 or after:
        page = listed(api, search="nEEDLE", limit=2, **({"after": after} if after else {}))
        assert page["num_searched"] <= 3 and page["has_more"] is (page["next"] is not None)
        found, after, asked = found + [one["id"] for one in page["data"]], page["next"], asked + 1
    assert found == [needle] and asked == 3
    assert len(listed(api, search="STRASSE", limit=2)["data"]) == 2  # letters are alike whatever their case
    whole = listed(api, limit=5)
    assert len(whole["data"]) == 5 and len(listed(api, limit=5, after=whole["next"])["data"]) == 3


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_what_cannot_be_a_row_is_left_out_and_counted(api: Api, kind: str) -> None:
    good = keep(api, kind, "good?", "Good.")
    keep(api, kind, "silent?", "" if kind == "chat" else None)
    if kind == "chat":
        keep(api, kind, "long?", "Lo", finish_reason="length")
        keep(api, kind, "filtered?", "x", finish_reason="content_filter")
        expected = {"cut_off": 2, "no_answer": 1}
    else:
        for status in ("incomplete", "failed", "cancelled", "queued", "in_progress"):
            keep(api, kind, "?", "Lo", status=status)
        keep(api, kind, "and then?", "?", previous_response_id="resp_gone")
        expected = {"cut_off": 1, "failed": 1, "cancelled": 1, "under_way": 2, "earlier_gone": 1, "no_answer": 1}
    rows, left_out, made = dataset(api)
    assert rows == [{"messages": [{"role": "user", "content": "good?"}, {"role": "assistant", "content": "Good."}]}]
    assert left_out == expected and made["num_rows"] == 1
    assert (made["file"]["purpose"], made["file"]["filename"]) == ("fine-tune", "answers.jsonl")
    rows, left_out, _ = dataset(api, ids=[good, good, "chatcmpl-none", "resp_none"], filename="mine.jsonl")
    assert len(rows) == 1 and left_out == {"gone": 2}
    refused = api.client.post(f"{URL}/dataset", json={"without": [good]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "no_rows")


def test_tools_parts_and_calls_are_kept_alike_from_both_apis(api: Api) -> None:
    """And only the last answer is taught."""
    asked = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "annotations": [], "audio": None},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    ]
    request = {"tools": [TOOL], "parallel_tool_calls": False, "temperature": 0.3, "store": True}
    keep(api, "chat", asked, {"content": None, "tool_calls": [CALL], "annotations": []}, request=request)
    items = [
        message("user", [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]),
        output_call(),
        {"id": "fco_1", "type": "function_call_output", "call_id": "call_1", "status": "completed", "output": "42"},
    ]
    tool = {"type": "function", **TOOL["function"], "description": None, "strict": False}
    body = {"instructions": "Be brief.", "tools": [tool], "parallel_tool_calls": False}
    keep(api, "responses", items, [output_call()], body=body)
    (one, other), left_out, _ = dataset(api)
    assert left_out == {}
    for row in (one, other):
        row["tools"][0]["function"].pop("strict", None)
    assert one == other
    assert set(one) == {"messages", "tools", "parallel_tool_calls"} and one["tools"] == [TOOL]
    assert [message.get("weight") for message in one["messages"]] == [None, None, 0, None, None]
    assert one["messages"][-1]["tool_calls"] == [CALL]
    report = preview(api, base=BASE)
    assert report["problem_counts"].keys() <= {"too_few_examples"}, report["problems"]


def test_an_answer_is_corrected_or_left_out(api: Api) -> None:
    words = keep(api, "chat", "1?", "wrong")
    cut = keep(api, "responses", "2?", "Lo", status="incomplete")
    called = keep(api, "responses", "3?", [output_call()])
    legacy = keep(api, "chat", "4?", {"content": None, "function_call": {"name": "find", "arguments": "{}"}})
    refused = keep(api, "chat", "5?", {"content": None, "refusal": "No."})
    unwanted = keep(api, "chat", "6?", "x")
    lost = keep(api, "responses", "7?", "x", status="incomplete", previous_response_id="resp_gone")
    better = {**CALL, "function": {"name": "find", "arguments": '{"a": 2}'}}
    corrections = {
        words: {"content": "right"},
        cut: {"content": "Long and whole."},
        called: {"tool_calls": [better]},
        legacy: {"tool_calls": [better]},
        refused: {"content": "Yes."},
        lost: {"content": "no question, no row"},
    }
    rows, left_out, _ = dataset(api, without=[unwanted], corrections=corrections)
    answers = {row["messages"][0]["content"]: row["messages"][-1] for row in rows}
    assert answers == {
        "1?": {"role": "assistant", "content": "right"},
        "2?": {"role": "assistant", "content": "Long and whole."},
        "3?": {"role": "assistant", "content": None, "tool_calls": [better]},
        "4?": {"role": "assistant", "content": None, "tool_calls": [better]},
        "5?": {"role": "assistant", "content": "Yes."},
    }
    assert left_out == {"not_chosen": 1, "earlier_gone": 1}
    assert dataset(api, corrections={words: {"content": " "}, cut: {"content": ""}})[1]["no_answer"] >= 1


def test_a_row_of_a_chain_and_of_a_conversation_holds_what_came_before(api: Api) -> None:
    first = keep(api, "responses", "My name is Ada.", "Hello Ada.", body={"instructions": "Old."})
    second = keep(api, "responses", "My name?", "Ada.", previous_response_id=first, body={"instructions": "New."})
    before = Conversation("conv_1", api.project_id, AT)
    with write(api.engine) as conn:
        conversations.insert_conversation(conn, before)
        responses.add_items(conn, api.project_id, input_items("I am Bo."), AT, conversation_id="conv_1")
    third = keep(api, "responses", "Who?", "Bo.", conversation_id="conv_1")
    with write(api.engine) as conn:
        responses.add_items(conn, api.project_id, input_items("later"), AT, conversation_id="conv_1")
    said = {id: [m["content"] for m in api.client.get(f"{URL}/{id}").json()["messages"]] for id in (second, third)}
    assert said == {second: ["New.", "My name is Ada.", "Hello Ada.", "My name?"], third: ["I am Bo.", "Who?"]}
    rows, _, _ = dataset(api, ids=[second])
    assert [m.get("weight") for m in rows[0]["messages"]] == [None, None, 0, None, None]
    api.client.delete("/v1/conversations/conv_1")
    api.client.delete(f"/v1/responses/{first}")
    assert {api.client.get(f"{URL}/{id}").json()["problem"] for id in (second, third)} == {"earlier_gone"}


def test_a_preview_says_what_the_file_would_be_and_keeps_nothing(api: Api) -> None:
    for number in range(12):
        keep(api, "chat" if number % 2 else "responses", f"Question {number}?", f"Answer {number}.")
    keep(api, "chat", "?", "Lo", finish_reason="length")
    report = preview(api, base=BASE)
    assert report["valid"] and (report["num_lines"], report["left_out"]) == (12, [{"reason": "cut_off", "count": 1}])
    assert report["token_counts"]["tokens"]["total"] > report["token_counts"]["trained_tokens"]["total"] > 0
    assert api.client.get("/v1/files").json()["data"] == []
    rows, _, made = dataset(api, search="question 1")
    assert {row["messages"][0]["content"] for row in rows} == {f"Question {n}?" for n in (1, 10, 11)}
    assert made["file"]["bytes"] > 0
    unknown = api.client.post(f"{URL}/preview", json={"base": "no-such-model"})
    assert unknown.status_code == 400


def test_rights_and_the_audit_log(api: Api) -> None:
    kept = {kind: keep(api, kind, "q", "a") for kind in ("chat", "responses")}
    reader = api.as_key(api.make_key(role=Role.READER))
    stranger = api.as_key(api.make_stranger())
    for path in (URL, f"{URL}/counts", *(f"{URL}/{id}" for id in kept.values())):
        assert api.client.get(path, headers=reader).status_code == 200
    assert api.client.post(f"{URL}/preview", json={}, headers=reader).status_code == 200
    assert api.client.post(f"{URL}/dataset", json={}, headers=reader).status_code == 403
    for path in (f"/v1/chat/completions/{kept['chat']}", f"/v1/responses/{kept['responses']}"):
        assert api.client.delete(path, headers=reader).status_code == 403
    assert api.client.get(URL, headers=stranger).json()["data"] == []
    assert [api.client.get(f"{URL}/{id}", headers=stranger).status_code for id in kept.values()] == [404, 404]
    only_files = api.as_key(api.make_key(scopes=("api.files.write", "api.files.read")))
    assert api.client.post(f"{URL}/dataset", json={}, headers=only_files).status_code == 403
    for path in (f"/v1/chat/completions/{kept['chat']}", f"/v1/responses/{kept['responses']}"):
        assert api.client.delete(path).status_code == 200
    logs = api.client.get("/v1/organization/audit_logs", params={"every_type": True}).json()["data"]
    assert {"chat.completion.deleted", "response.deleted"} <= {entry["type"] for entry in logs}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"ids": ["x"] * 1001}, "ids"),
        ({"api": "batch"}, "api"),
        ({"since": -1}, "since"),
        ({"search": "x" * 201}, "search"),
        ({"corrections": {"resp_1": {"tool_calls": []}}}, "corrections.resp_1.tool_calls"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"filename": ""}, "filename"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_what_cannot_be_asked_names_its_parameter(api: Api, body: dict[str, Any], param: str) -> None:
    for path in ("preview", "dataset"):
        refused = api.client.post(f"{URL}/{path}", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_a_full_project_gets_no_dataset(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=2_000)
    for _ in range(5):
        keep(api, "responses", "q" * 100, "a" * 100)
    refused = api.client.post(f"{URL}/dataset", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "storage_limit_exceeded")
    assert api.client.get("/v1/files").json()["data"] == []


def test_what_a_model_said_through_both_apis_becomes_the_same_row(
    make_api: Callable[..., Api], engine_url: str
) -> None:
    api = make_api(engine_urls=[engine_url])
    shared = {"model": BASE, "temperature": 0, "store": True}
    chat = api.client.post(
        "/v1/chat/completions",
        json={**shared, "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 400},
    )
    response = api.client.post("/v1/responses", json={**shared, "input": "Hi", "max_output_tokens": 400})
    assert (chat.status_code, response.status_code) == (200, 200)
    answer = chat.json()["choices"][0]["message"]["content"]
    corrections = {made.json()["id"]: {"content": answer} for made in (chat, response)}  # it may have been cut
    rows, left_out, _ = dataset(api, corrections=corrections)
    assert left_out == {} and len(rows) == 2 and rows[0] == rows[1]
    usage = [one["usage"] for one in listed(api)["data"]]
    tokens = [(used["input_tokens"], used["output_tokens"]) for used in usage]  # the second finds the first's cached
    assert tokens[0] == tokens[1] and min(tokens[0]) > 0


def test_output_of_several_items_is_one_answer(api: Api) -> None:
    said = [message("assistant", [output_text(text, [])]) for text in ("First.", "Second.")]
    kept = keep(api, "responses", "q", [said[0], output_call(), said[1]])
    answer = api.client.get(f"{URL}/{kept}").json()["answer"]
    assert [part["text"] for part in answer["content"]] == ["First.", "Second."] and answer["tool_calls"] == [CALL]
