"""A right that is taken away while it is in use: running answers end, other people's go on."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.conftest import BASE, NOW, SECRET, Api
from tests.api.test_broken_off import CHAT, LONG, computed, listening, records
from tests.api.test_rights import ORGANIZATION, Person, delete, post
from tests.loops import run
from tunery.api import delivery
from tunery.api.delivery import Running
from tunery.domain.responses import StoredResponse
from tunery.store.blobs import Blobs
from tunery.store.database import read, write
from tunery.store.files import list_files
from tunery.store.responses import add_events, find_response, insert_response
from tunery.store.storage import stored_bytes

ASKED = LONG | {"messages": [{"role": "user", "content": "Say something."}]}


@pytest.fixture
def api(make_api: Callable[..., Api], engine_url: str, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(delivery, "LOOK_EVERY_S", 0.05)
    return make_api(engine_urls=[engine_url])


@pytest.fixture
def url(api: Api) -> Iterator[str]:
    with listening(api) as address:
        yield address


def expire(who: Person) -> None:
    who.api.clock.now += 60


TAKEN: dict[str, tuple[Callable[[Person], Any], str]] = {
    "revoked": (lambda who: delete(who.api, f"{who.path}/api_keys/{who.key_id}"), "invalid_api_key"),
    "expired": (expire, "invalid_api_key"),
    "narrowed": (lambda who: who.narrow("api.files.read"), "missing_scope"),
    "narrowed to nothing": (lambda who: who.narrow(), "missing_scope"),
    "made a reader": (lambda who: who.set_project_role("reader"), ""),
    "left the project": (lambda who: delete(who.api, f"{who.path}/users/{who.id}"), "invalid_api_key"),
    "left the organization": (lambda who: delete(who.api, f"{ORGANIZATION}/users/{who.id}"), "invalid_api_key"),
    "archived": (lambda who: post(who.api, f"{who.path}/archive"), "invalid_api_key"),
}


def person_of(api: Api, number: int = 1) -> Person:
    person = Person(api, number, "member", "member")
    post(api, f"{person.path}/api_keys/{person.key_id}", {"expires_in_seconds": 30})
    return person


def follow(url: str, secret: str, then: Callable[[], Any], after: int = 5) -> tuple[int, dict[str, Any] | None, bool]:
    """(chunks, the error that ended the stream, whether it came to its own end). `then` runs after so many chunks."""
    chunks, error, is_whole = 0, None, False
    headers = {"authorization": f"Bearer {secret}"}
    with httpx.stream("POST", url + CHAT, json=ASKED | {"stream": True, "n": 4}, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line == "data: [DONE]":
                is_whole = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                error = event.get("error", error)
                chunks += "error" not in event
                if chunks == after:
                    then()
    return chunks, error, is_whole


@pytest.mark.parametrize("how", TAKEN)
def test_a_stream_ends_when_its_key_loses_the_right_and_costs_what_was_computed(
    api: Api, url: str, engine_url: str, how: str
) -> None:
    person = person_of(api)
    take, code = TAKEN[how]
    before = computed(engine_url)
    chunks, error, is_whole = follow(url, person.secret, lambda: take(person))
    assert not is_whole and chunks < 4000
    assert error is not None and (error["code"] or "") == code, error
    (record,) = records(api, 1, person.project)
    assert record.output_tokens == computed(engine_url) - before < 4 * 1500


@pytest.mark.parametrize("how", ["revoked", "made a reader"])
def test_a_whole_answer_ends_in_the_same_way(api: Api, url: str, how: str) -> None:
    person = person_of(api)
    take, code = TAKEN[how]
    with httpx.Client(base_url=url, headers=api.as_key(person.secret), timeout=60) as client:
        running = api.context.shared(Running)

        async def taken_meanwhile() -> httpx.Response:
            asking = asyncio.create_task(asyncio.to_thread(client.post, CHAT, json=ASKED | {"n": 8}))
            while not running.callers:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(take, person)
            return await asking

        answer = run(taken_meanwhile())
    assert answer.status_code == (401 if code else 403), answer.text


def test_a_right_that_is_changed_and_not_taken_ends_nothing(api: Api, url: str) -> None:
    person, other = person_of(api), person_of(api, 2)

    def change() -> None:
        person.set_project_role("owner")
        person.narrow("model.request")
        TAKEN["revoked"][0](other)

    chunks, error, is_whole = follow(url, person.secret, change)
    assert is_whole and error is None and chunks > 20  # many tokens each


def test_an_admin_keys_stream_ends_when_the_project_it_named_is_archived(api: Api, url: str) -> None:
    person = person_of(api)
    admin = api.make_key(project_id=None, is_admin=True)
    running = api.context.shared(Running)
    headers = {"openai-project": person.project, **api.as_key(admin)}
    with httpx.stream("POST", url + CHAT, json=ASKED | {"stream": True}, headers=headers, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        post(api, f"{person.path}/archive")
        rest = list(lines)
    assert any('"invalid_api_key"' in line for line in rest) and "data: [DONE]" not in rest
    deadline = time.monotonic() + 20
    while running.callers and time.monotonic() < deadline:  # the engine is told, and says what it came to
        time.sleep(0.02)
    assert running.callers == set()


# ---- long work on files

ROWS = b"".join(
    b'{"messages": [{"role": "user", "content": "%d %s"}, {"role": "assistant", "content": "Yes."}]}\n'
    % (number, b"words " * 400)
    for number in range(1200)
)
OF_A_FILE: dict[str, Callable[[str], tuple[str, str, dict[str, Any] | None]]] = {
    "report": lambda file: ("POST", "/tunery/v1/validations", {"file": file}),
    "report as it is made": lambda file: ("POST", "/tunery/v1/validations", {"file": file, "stream": True}),
    "report on a part": lambda file: ("POST", "/tunery/v1/validations", {"file": file, "validation_share": 0.1}),
    "report on two": lambda file: (
        *("POST", "/tunery/v1/validations"),
        {"file": file, "training_file": file, "role": "validation"},
    ),
    "estimate": lambda file: ("POST", "/tunery/v1/estimates", {"training_file": file, "model": BASE}),
    "estimate on a part": lambda file: (
        *("POST", "/tunery/v1/estimates"),
        {"training_file": file, "model": BASE, "validation_share": 0.1},
    ),
    "split": lambda file: ("POST", f"/tunery/v1/files/{file}/split", {"validation_share": 0.1}),
    "rows": lambda file: ("GET", f"/tunery/v1/files/{file}/rows?search=no-such-word", None),
}


@pytest.fixture
def with_base(make_api: Callable[..., Api], base_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(delivery, "LOOK_EVERY_S", -1)
    monkeypatch.setattr(Blobs, "local_path", lambda *_: None)
    return make_api(model_cache=base_model_dir.parent)


@pytest.mark.parametrize("how", ["revoked", "narrowed to nothing", "archived", "left the organization", None])
@pytest.mark.parametrize("what", OF_A_FILE)
def test_work_on_a_file_ends_with_the_right_to_it(
    with_base: Api, monkeypatch: pytest.MonkeyPatch, what: str, how: str | None
) -> None:
    api, person, pieces = with_base, person_of(with_base), 0
    content = {"file": ("train.jsonl", ROWS)}
    headers = api.as_key(person.secret)
    file = api.client.post("/v1/files", files=content, data={"purpose": "fine-tune"}, headers=headers).json()["id"]
    get = Blobs.get

    def taken_meanwhile(blobs: Blobs, path: str) -> Iterator[bytes]:
        nonlocal pieces
        for piece in get(blobs, path):
            pieces += 1
            if pieces == 1 and how is not None:
                TAKEN[how][0](person)
            yield piece

    monkeypatch.setattr(Blobs, "get", taken_meanwhile)
    method, path, body = OF_A_FILE[what](file)
    answer = api.client.request(method, path, json=body, headers=headers)
    if how is None:
        assert answer.status_code == 200 and "error" not in answer.text[:100], answer.text[:500]
    elif what == "report as it is made":
        assert TAKEN[how][1] in answer.text.rpartition("event: error")[2]
    else:
        assert answer.status_code in (401, 403) and answer.json()["error"]["code"] == TAKEN[how][1], answer.text
    with read(api.engine) as conn:
        kept = list_files(conn, person.project).items
    assert len(kept) == (3 if what == "split" and how is None else 1)


@pytest.mark.parametrize("how", ["revoked", "narrowed", "made a reader", "archived", "left the project", "expired"])
@pytest.mark.parametrize("what", ["file", "part"])
def test_what_is_long_on_its_way_needs_the_right_when_it_is_there(api: Api, url: str, what: str, how: str) -> None:
    person = person_of(api)
    headers = api.as_key(person.secret)
    begun = {"bytes": len(ROWS), "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    upload = api.client.post("/v1/uploads", json=begun, headers=headers).json()["id"]
    path, name = ("/v1/files", "file") if what == "file" else (f"/v1/uploads/{upload}/parts", "data")
    head = f'--b\r\ncontent-disposition: form-data; name="{name}"; filename="a.jsonl"\r\n\r\n'

    def form() -> Iterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n' if what == "file" else b""
        yield head.encode() + ROWS[:1_000_000]
        TAKEN[how][0](person)
        yield ROWS[1_000_000:] + b"\r\n--b--\r\n"

    sent = {**headers, "content-type": "multipart/form-data; boundary=b"}
    answer = httpx.post(url + path, content=form(), headers=sent, timeout=60)
    assert answer.status_code in (400, 401, 403), answer.text
    assert (answer.json()["error"]["code"] or "") == ("project_archived" if how == "archived" else TAKEN[how][1])
    with read(api.engine) as conn:
        assert stored_bytes(conn, person.project).total == 0


@pytest.mark.parametrize("how", ["revoked", "made a reader", "archived"])
def test_a_judge_elsewhere_is_left_with_the_right(
    make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(delivery, "LOOK_EVERY_S", 0.05)
    grader = {"type": "score_model", "name": "j", "model": "judge", "input": [{"role": "user", "content": "Good?"}]}
    with socket.create_server(("127.0.0.1", 0)) as judge, ThreadPoolExecutor(1) as asking:
        api = make_api(judge_url=f"http://127.0.0.1:{judge.getsockname()[1]}/v1")
        person = person_of(api)
        path, body = "/v1/fine_tuning/alpha/graders/run", {"grader": grader, "model_sample": "x", "item": {}}
        answer = asking.submit(api.client.post, path, json=body, headers=api.as_key(person.secret))
        connection, _ = judge.accept()
        with connection:
            connection.settimeout(20)
            connection.recv(1)
            TAKEN[how][0](person)
            while connection.recv(65536):  # until it is closed: nobody waits for what the judge will say
                pass
        assert answer.result(20).status_code == (401 if TAKEN[how][1] else 403)


def test_an_organization_without_an_active_project_can_make_one(api: Api) -> None:
    """Two owners may archive the last two projects at the same moment; an admin key has then nothing to work in."""
    admin = api.as_key(api.make_key(project_id=None, is_admin=True))
    with api.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE projects SET archived_at = 1")
    for method, path in (("GET", "/v1/files"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions")):
        refused = api.client.request(method, path, json={} if method == "POST" else None, headers=admin)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "project_archived"), path
        assert "POST /v1/organization/projects" in refused.json()["error"]["message"]
    assert api.client.get(f"{ORGANIZATION}/projects", headers=admin).json()["data"] == []
    assert api.client.post(f"{ORGANIZATION}/projects", json={"name": "anew"}, headers=admin).status_code == 200
    assert api.client.get("/v1/files", headers=admin).status_code == 200
    assert api.client.get(f"{ORGANIZATION}/projects", headers=api.as_key(SECRET)).status_code == 401


RESPONSES = "/v1/responses"
# Responses have no logit_bias that forbids the end: the schema does.
_MANY = {"type": "object", "properties": {"many": {"type": "array", "items": {"type": "integer"}, "minItems": 1000}}}
LONG_RESPONSE = {
    "model": BASE,
    "input": "Say something.",
    "max_output_tokens": 1500,
    "temperature": 1,
    "text": {"format": {"type": "json_schema", "name": "many", "schema": _MANY | {"required": ["many"]}}},
}


def test_a_streamed_response_ends_with_an_error_event(api: Api, url: str) -> None:
    person = person_of(api)
    headers, events = api.as_key(person.secret), []
    # With this, an answer is longer than what may wait on its way to a client that does not read.
    logprobs = {"include": ["message.output_text.logprobs"], "top_logprobs": 20}
    asked = LONG_RESPONSE | {"stream": True} | logprobs
    with httpx.stream("POST", url + RESPONSES, json=asked, headers=headers, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
                if len(events) == 8:
                    delete(api, f"{person.path}/api_keys/{person.key_id}")
    assert events[-1]["type"] == "error"
    assert events[-1]["code"] == "invalid_api_key"
    (record,) = records(api, 1, person.project)
    assert record.output_tokens < 1500


def under_way(api: Api, project_id: str) -> str:
    """The id of a response that another process is answering."""
    found = StoredResponse(
        "resp_1", project_id, int(NOW), BASE, "in_progress", {}, is_background=True, seen_at=int(NOW) + 60
    )
    events = [{"type": "response.created", "sequence_number": 0, "response": {"id": found.id}}]
    with write(api.engine) as conn:
        insert_response(conn, found)
        add_events(conn, found.id, events, int(NOW) + 60)
    return found.id


@pytest.mark.parametrize("how", [how for how in TAKEN if how not in ("narrowed", "made a reader")])
def test_who_follows_a_background_response_hears_no_more_when_the_right_ends(api: Api, url: str, how: str) -> None:
    """Though whoever asked for it may go on."""
    person, events = person_of(api), []
    path = f"{url}{RESPONSES}/{under_way(api, person.project)}?stream=true"
    with httpx.stream("GET", path, headers=api.as_key(person.secret), timeout=20) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
                if len(events) == 1:
                    TAKEN[how][0](person)
    assert [event["type"] for event in events] == ["response.created", "error"]
    assert (events[1]["code"], events[1]["sequence_number"]) == (TAKEN[how][1], 1)


def test_a_background_response_fails_when_its_key_loses_the_right(api: Api) -> None:
    person = person_of(api)
    made = api.client.post(
        RESPONSES, json=LONG_RESPONSE | {"background": True}, headers=api.as_key(person.secret)
    ).json()
    delete(api, f"{person.path}/api_keys/{person.key_id}")
    deadline = time.monotonic() + 60
    while True:
        with read(api.engine) as conn:
            found = find_response(conn, made["id"], person.project)
        assert found is not None
        if found.has_ended or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert found.status == "failed"
    assert "may no longer be used" in found.body["error"]["message"]
