"""The storage limit of a project: what counts, that it holds while bytes arrive, and what gives bytes back."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import String, cast, func, select

from tests.api.conftest import BASE, EXAMPLE, NOW, SECRET, Api
from tests.loops import run
from tunery.api import inference, uploads
from tunery.api.files import service
from tunery.api.multipart import Event, PartData, PartEnd, PartHead
from tunery.api.responses import service as responses
from tunery.domain.completions import StoredCompletion
from tunery.domain.errors import InvalidRequest
from tunery.domain.files import MAX_PARTS, UploadPart
from tunery.domain.tenants import Caller, Role, lookup_prefix
from tunery.metering.ledger import RequestIds
from tunery.metering.storage import HELD_S, STEP_BYTES
from tunery.store import completions, files, storage, tenants
from tunery.store.database import read, write
from tunery.store.tables import response_events

LINE = EXAMPLE * 100  # some 10 KB


def stored(api: Api) -> dict[str, int]:
    return api.client.get(f"/tunery/v1/organization/projects/{api.project_id}/limits").json()["stored"]


def begin(api: Api, num_bytes: int):
    body = {"bytes": num_bytes, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    return api.client.post("/v1/uploads", json=body)


def add(api: Api, upload_id: str, content: bytes):
    return api.client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("part", content)})


def send(api: Api, content: bytes):
    return api.client.post("/v1/files", files={"file": ("a.jsonl", content)}, data={"purpose": "fine-tune"})


def left_behind(api: Api) -> list[Path]:
    return [path for path in (api.context.settings.home / "blobs").rglob("*") if path.is_file()]


def refused(answer: Any, param: str, code: str = "storage_limit_exceeded") -> None:
    assert answer.status_code == 400, answer.text
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)


class Form:
    """A form whose file comes line by line, without a length, and that knows how much of it was read."""

    def __init__(self, field: str, num_lines: int, then: Callable[[], Any] = lambda: None) -> None:
        self.field, self.num_lines, self.num_read, self.then = field, num_lines, 0, then

    def events(self) -> Iterator[Event]:
        yield from (PartHead("purpose", None), PartData(b"fine-tune"), PartEnd(), PartHead(self.field, "a.jsonl"))
        for _ in range(self.num_lines):
            self.num_read += 1
            yield PartData(LINE)
        self.then()
        yield PartEnd()


def caller_of(api: Api) -> Caller:
    """Who has the first key: what is kept is kept for a key that may still do it."""
    with read(api.engine) as conn:
        found = tenants.find_credential(conn, lookup_prefix(SECRET))
    assert found is not None
    return Caller(found[0].id, api.organization_id, api.project_id, None, Role.OWNER)


@pytest.mark.parametrize("kind", ["file", "part by the limit", "part by what was announced"])
def test_a_body_without_a_length_ends_at_the_limit_and_leaves_nothing(make_api: Callable[..., Api], kind: str) -> None:
    api = make_api(max_storage_bytes=20 * len(LINE))
    form = Form("file" if kind == "file" else "data", 400)
    announced = (20 if kind == "part by the limit" else 5) * len(LINE)
    upload_id = begin(api, announced).json()["id"]
    send(api, LINE)
    with pytest.raises(InvalidRequest) as caught:
        if kind == "file":
            service.upload_file(api.context, caller_of(api), form.events(), None)
        else:
            uploads.add_part(api.context, caller_of(api), upload_id, form.events(), None)
    by_announcement = kind == "part by what was announced"
    assert caught.value.code == ("upload_size_exceeded" if by_announcement else "storage_limit_exceeded")
    assert caught.value.param == form.field
    assert form.num_read == (6 if by_announcement else 20), "one chunk beyond what fits"
    assert sum(path.stat().st_size for path in left_behind(api)) == stored(api)["total"] == len(LINE)
    with read(api.engine) as conn:
        assert storage.reserved_bytes(conn, api.project_id, now=NOW) == 0


def test_a_chunked_request_is_refused_like_any_other(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=len(LINE))
    head = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=limit"}
    refused(api.client.post("/v1/files", content=iter([head, LINE, LINE]), headers=headers), "file")
    assert left_behind(api) == []


def test_pending_parts_count_until_the_upload_is_cancelled(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=3 * len(LINE))
    upload_id = begin(api, 2 * len(LINE)).json()["id"]
    assert add(api, upload_id, 2 * LINE).status_code == 200
    assert stored(api) == {
        "files": 0, "upload_parts": 2 * len(LINE), "completions": 0, "models": 0, "responses": 0,
        "batches": 0, "evals": 0, "states": 0, "records": 0, "total": 2 * len(LINE)
    }  # fmt: skip
    refused(send(api, 2 * LINE), "file")
    refused(begin(api, 2 * len(LINE)), "bytes")
    api.client.post(f"/v1/uploads/{upload_id}/cancel")
    assert stored(api)["total"] == 0
    assert send(api, 2 * LINE).status_code == 200


def test_a_completed_upload_counts_once(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=3 * len(LINE))
    upload_id = begin(api, 3 * len(LINE)).json()["id"]
    parts = [add(api, upload_id, content).json()["id"] for content in (LINE, 2 * LINE)]
    done = api.client.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": parts})
    assert done.status_code == 200, done.text
    assert (stored(api)["files"], stored(api)["total"]) == (3 * len(LINE), 3 * len(LINE))
    api.client.delete(f"/v1/files/{done.json()['file']['id']}")
    assert stored(api)["total"] == 0
    assert left_behind(api) == []


def test_what_has_expired_makes_room(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=3 * len(LINE))
    upload_id = begin(api, 2 * len(LINE)).json()["id"]
    add(api, upload_id, 2 * LINE)
    api.clock.now += 3600
    assert send(api, 3 * LINE).status_code == 200
    assert stored(api)["upload_parts"] == 0
    assert len(left_behind(api)) == 1


def test_parts_sent_at_once_never_have_more_than_was_announced(api: Api) -> None:
    upload_id = begin(api, 3 * len(LINE)).json()["id"]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: add(api, upload_id, LINE), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [400] * 3
    assert stored(api)["upload_parts"] == 3 * len(LINE)
    assert sum(path.stat().st_size for path in left_behind(api)) == 3 * len(LINE)


def test_parts_that_fit_exactly_fit_at_once(make_api: Callable[..., Api]) -> None:
    piece = LINE * 20
    api = make_api(max_storage_bytes=8 * (len(piece) + 500))  # each may be promised its form's overhead
    upload_id = begin(api, 8 * len(piece)).json()["id"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: add(api, upload_id, piece), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8


@pytest.mark.parametrize("limit", [5, 12])
def test_files_sent_at_once_never_pass_the_limit_together(make_api: Callable[..., Api], limit: int) -> None:
    api = make_api(max_storage_bytes=limit * len(LINE))

    def send_one(_: int) -> bool:
        try:
            service.upload_file(api.context, caller_of(api), Form("file", 3).events(), None)
        except InvalidRequest:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        kept = sum(pool.map(send_one, range(8)))
    assert stored(api)["total"] == kept * 3 * len(LINE) <= limit * len(LINE)
    assert kept


def test_an_upload_takes_no_part_that_arrives_after_its_end(api: Api) -> None:
    upload_id = begin(api, len(LINE)).json()["id"]
    form = Form("data", 1, lambda: uploads.cancel_upload(upload_id, caller_of(api), api.context))
    with pytest.raises(InvalidRequest, match="cancelled"):
        uploads.add_part(api.context, caller_of(api), upload_id, form.events(), None)
    assert (stored(api)["total"], left_behind(api)) == (0, [])


def test_an_upload_has_at_most_so_many_parts(api: Api) -> None:
    upload_id = begin(api, 10).json()["id"]
    with write(api.engine) as conn:
        for index in range(MAX_PARTS):
            files.insert_part(conn, UploadPart(f"part_{index}", upload_id, int(NOW), 0, "none"))
    answer = add(api, upload_id, b"")
    assert (answer.status_code, "parts" in answer.json()["error"]["message"]) == (400, True)


def test_both_halves_of_a_split_count(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=3 * len(LINE))
    names = ("Ada", "Bo", "Cleo", "Dan", "Eve", "Fay", "Gus", "Hal", "Ida", "Jon")
    rows = b"".join(EXAMPLE.replace(b"Hi", f"{name} is {name * 500}".encode()) for name in names)
    file_id = send(api, rows + LINE).json()["id"]
    refused(api.client.post(f"/tunery/v1/files/{file_id}/split", json={"validation_share": 0.2}), "id")
    assert (len(left_behind(api)), stored(api)["total"]) == (1, len(rows) + len(LINE))


def test_stored_completions_count_until_they_are_deleted(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=2 * len(LINE))
    kept = StoredCompletion("chatcmpl-1", api.project_id, int(NOW), "m", {"messages": [LINE.decode()]}, {"a": "é"})
    with write(api.engine) as conn:
        completions.insert_completion(conn, kept)
    assert stored(api)["completions"] == completions.num_bytes(kept) > len(LINE)
    refused(send(api, LINE), "file")
    model = api.make_model().name
    body = {"model": model, "messages": [{"role": "user", "content": LINE.decode()}], "store": True}
    refused(api.client.post("/v1/chat/completions", json=body), "store")
    assert api.client.delete("/v1/chat/completions/chatcmpl-1").status_code == 200
    assert stored(api)["total"] == 0
    assert send(api, LINE).status_code == 200


def test_a_killed_requests_reservation_ends(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=STEP_BYTES)
    with write(api.engine) as conn:
        storage.reserve(conn, "killed", api.project_id, STEP_BYTES, until=NOW + HELD_S)
    refused(send(api, LINE), "file")
    api.clock.now += HELD_S
    assert send(api, LINE).status_code == 200


def test_a_projects_own_limit_holds_and_another_projects_bytes_do_not_count(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=10 * len(LINE))
    other = api.as_key(api.make_key(project_id=api.make_project()))
    path = f"/tunery/v1/organization/projects/{api.project_id}/limits"
    assert api.client.post(path, json={"max_storage_bytes": len(LINE)}).status_code == 200
    refused(send(api, 2 * LINE), "file")
    sent = {"file": ("a.jsonl", 9 * LINE)}
    answer = api.client.post("/v1/files", files=sent, data={"purpose": "fine-tune"}, headers=other)
    assert answer.status_code == 200
    assert send(api, LINE).status_code == 200


def test_adapters_count_until_their_models_are_deleted(make_api: Callable[..., Api]) -> None:
    api = make_api(max_storage_bytes=10 * len(LINE))
    names = [f"ft:{BASE}:personal::AbCd123{number}" for number in range(3)]
    for name in names:
        api.make_model(name, num_bytes=3 * len(LINE))
    api.make_model(f"ft:{BASE}:personal::Elsewher", num_bytes=10**9, project_id=api.make_project())
    assert stored(api)["models"] == stored(api)["total"] == 9 * len(LINE)
    refused(send(api, 2 * LINE), "file")
    training_file = send(api, LINE).json()["id"]
    job = {"model": BASE, "training_file": training_file}
    full = api.client.post("/v1/fine_tuning/jobs", json=job)
    assert (full.status_code, full.json()["error"]["code"]) == (400, "storage_limit_exceeded"), full.text
    assert api.client.delete(f"/v1/models/{names[0]}").status_code == 200
    assert stored(api)["models"] == 6 * len(LINE)
    assert api.client.post("/v1/fine_tuning/jobs", json=job).status_code == 200


DEFINITION = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{item.a}}", "reference": "x"}
SOURCE = {"type": "custom", "item_schema": {"type": "object"}}
TEXT = "x" * len(LINE)
KEPT: dict[str, tuple[str, dict[str, Any], str]] = {  # path, body, and the parameter that a refusal names
    "an eval's criteria": (
        *("/v1/evals", {"data_source_config": SOURCE, "testing_criteria": [DEFINITION | {"reference": TEXT}]}),
        "testing_criteria",
    ),
    "an eval's schema": (
        "/v1/evals",
        {
            "data_source_config": {"type": "custom", "item_schema": {"type": "object", "description": TEXT}},
            "testing_criteria": [DEFINITION],
        },
        "testing_criteria",
    ),
    "a run's rows": (
        "/v1/evals/{eval}/runs",
        {
            "data_source": {
                "type": "jsonl",
                "source": {"type": "file_content", "content": [{"item": {"a": TEXT}}]},
            }
        },
        "data_source",
    ),
    "a conversation": ("/v1/conversations", {"items": [{"role": "user", "content": TEXT}]}, "items"),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_a_body_defines_or_brings_counts(make_api: Callable[..., Api], kind: str) -> None:
    path, body, param = KEPT[kind]
    api = make_api(max_storage_bytes=3 * len(LINE))
    made = api.client.post("/v1/evals", json={"data_source_config": SOURCE, "testing_criteria": [DEFINITION]}).json()
    before = stored(api)["total"]
    path = path.format(eval=made["id"])
    for _ in range(2):
        assert api.client.post(path, json=body).is_success
    assert 2 * len(LINE) <= stored(api)["total"] - before < 2 * len(LINE) + 2000
    refused(api.client.post(path, json=body), param)
    if path == "/v1/evals":
        for one in api.client.get("/v1/evals").json()["data"]:
            assert api.client.delete(f"/v1/evals/{one['id']}").status_code == 200
        assert stored(api)["total"] == 0


CHAT: dict[str, Any] = {"model": BASE, "messages": [{"role": "user", "content": TEXT}], "store": True}
RESPONSE: dict[str, Any] = {"model": BASE, "input": TEXT}


@pytest.mark.parametrize("kind", ["chat", "response", "response of a conversation alone"])
def test_answers_under_way_at_once_have_the_room_of_what_they_bring(make_api: Callable[..., Api], kind: str) -> None:
    """Nothing of them is in the database yet, and they do not pass the limit together."""
    api = make_api(max_storage_bytes=3 * len(LINE))
    caller, numbers = caller_of(api), iter(range(9))

    async def let_in() -> inference.InferenceRequest:
        ids = RequestIds(f"req_{next(numbers)}")
        if kind == "chat":
            return await inference.admit(api.context, caller, ids, "chat", CHAT)
        sent = dict(RESPONSE)
        if kind != "response":
            conversation = api.client.post("/v1/conversations", json={}).json()["id"]
            sent |= {"store": False, "conversation": conversation}
        return (await responses.admit(api.context, caller, ids, sent)).admitted

    async def at_once() -> None:
        under_way = [await let_in(), await let_in()]
        with pytest.raises(InvalidRequest) as caught:
            await let_in()
        assert (caught.value.code, caught.value.param) == ("storage_limit_exceeded", "store")
        await inference.abandon(api.context, under_way[0])
        under_way[0] = await let_in()
        for one in under_way:
            await inference.abandon(api.context, one)

    run(at_once())
    with read(api.engine) as conn:
        assert storage.reserved_bytes(conn, api.project_id, now=NOW) == 0


def test_the_room_of_an_answer_goes_with_its_row(make_api: Callable[..., Api], engine_url: str) -> None:
    api = make_api(max_storage_bytes=10**6, engine_urls=[engine_url])
    short = {"model": BASE, "temperature": 0}
    asked = [
        ("/v1/chat/completions", {**short, "messages": [{"role": "user", "content": "Hi"}], "store": True}),
        ("/v1/responses", {**short, "input": "Hi", "max_output_tokens": 16}),
        ("/v1/responses", {**short, "input": "Hi", "max_output_tokens": 16, "background": True}),
    ]
    for path, body in asked:
        made = api.client.post(path, json=body).json()
        deadline = time.monotonic() + 60
        while made.get("status") in ("queued", "in_progress") and time.monotonic() < deadline:
            made = api.client.get(f"{path}/{made['id']}").json()
    with read(api.engine) as conn:
        assert storage.reserved_bytes(conn, api.project_id, now=NOW) == 0
        events = conn.execute(select(func.sum(func.length(cast(response_events.c.events, String))))).scalar_one()
    assert stored(api)["responses"] > events > 1000, "what is kept to be followed counts, too"
    assert stored(api)["completions"] > 0


@pytest.mark.parametrize("kind", ["chat", "completion", "embedding", "response"])
def test_a_request_of_a_batch_is_refused_when_there_is_no_room_for_what_it_comes_to(
    make_api: Callable[..., Api], kind: Any
) -> None:
    api = make_api(max_storage_bytes=len(LINE))
    assert send(api, LINE).status_code == 200
    bodies = {
        "chat": {"model": BASE, "messages": [{"role": "user", "content": "Hi"}]},
        "completion": {"model": BASE, "prompt": "Hi"},
        "embedding": {"model": "text-embedding-3-small", "input": "Hi"},
    }
    ids, caller = RequestIds("req_1"), caller_of(api)
    with pytest.raises(InvalidRequest) as caught:
        if kind == "response":
            sent = {"model": BASE, "input": "Hi", "store": False}
            run(responses.admit(api.context, caller, ids, sent, is_batch=True))
        else:
            run(inference.admit(api.context, caller, ids, kind, bodies[kind], is_batch=True))
    assert caught.value.code == "storage_limit_exceeded"


KEEPS_METADATA = {
    "chat": ("/v1/chat/completions", CHAT),
    "stored completion": ("/v1/chat/completions/chatcmpl-1", {}),
    "response": ("/v1/responses", RESPONSE),
    "conversation": ("/v1/conversations", {}),
    "eval": ("/v1/evals", {"data_source_config": SOURCE, "testing_criteria": [DEFINITION]}),
    "batch": (
        "/v1/batches",
        {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    ),
    "job": ("/v1/fine_tuning/jobs", {"model": BASE, "training_file": "file-1"}),
}


@pytest.mark.parametrize("metadata", [{"a": "x" * 513}, {"k" * 65: "x"}], ids=["value", "key"])
@pytest.mark.parametrize("kind", KEEPS_METADATA)
def test_metadata_is_short_wherever_it_is_kept(api: Api, kind: str, metadata: dict[str, str]) -> None:
    path, body = KEEPS_METADATA[kind]
    answer = api.client.post(path, json={**body, "metadata": metadata})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"].startswith("metadata") and error["code"] == "string_above_max_length", error
