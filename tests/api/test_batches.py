"""Batches through the API and the worker's runner, with a real engine."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import Row, update

from tests.api.conftest import BASE, NOW, Api, leased_worker
from tests.api.test_webhooks import Received, receiver  # noqa: F401  a fixture
from tests.rows import ledger as ledger_rows
from tests.rows import notices
from tunery.api import leased
from tunery.api.batches import lines, runner
from tunery.api.batches.runner import BatchWork
from tunery.api.context import Context
from tunery.api.leased import LeasedRunner
from tunery.domain.batches import WINDOW_S
from tunery.domain.errors import text_of
from tunery.jobs.identity import this_worker
from tunery.metering.prices import PriceTable
from tunery.notify.dispatcher import Dispatcher
from tunery.store import tables
from tunery.store.database import read, write
from tunery.store.expiry import remove_expired
from tunery.texts import reference, say, translator

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
Line = dict[str, Any]


@pytest.fixture
def api(make_api: Callable[..., Api], engine_url: str, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(leased, "POLL_S", 0.02)  # so that it notices an end before its batch is answered
    monkeypatch.setattr(leased, "BEAT_S", 0.02)
    return make_api(engine_urls=[engine_url], batch_concurrency=4)


def chat(number: int, **values: Any) -> Line:
    messages = [{"role": "user", "content": f"Say {number}."}]
    body = {"model": BASE, "messages": messages, "temperature": 0, "max_completion_tokens": 4, **values}
    return {"custom_id": f"request-{number}", "method": "POST", "url": CHAT, "body": body}


def as_file(requests: Sequence[Line | bytes]) -> bytes:
    return b"".join((each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n" for each in requests)


def create(api: Api, content: bytes, endpoint: str = CHAT, **values: Any) -> dict[str, Any]:
    file = api.make_file(content, purpose="batch")
    body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h", **values}
    answer = api.client.post("/v1/batches", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "validating"
    return answer.json()


def get(api: Api, batch: dict[str, Any]) -> dict[str, Any]:
    return api.client.get(f"/v1/batches/{batch['id']}").json()


worker = partial(leased_worker, kind=BatchWork)


def until(api: Api, batch: dict[str, Any], *statuses: str) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while (found := get(api, batch))["status"] not in statuses:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def worked(api: Api, batch: dict[str, Any]) -> dict[str, Any]:
    with worker(api.context):
        return until(api, batch, *ENDED)


def content(api: Api, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(line) for line in api.client.get(f"/v1/files/{file_id}/content").content.splitlines()]


def bills(api: Api) -> Sequence[Row[Any]]:
    with read(api.engine) as conn:
        return ledger_rows(conn, api.project_id)


def test_a_batch_answers_what_a_live_request_answers_at_half_the_price(api: Api) -> None:
    api.client.post(
        "/v1/webhook_endpoints",
        json={"name": "x", "url": "https://example.com/", "event_types": ["batch.completed", "batch.failed"]},
    )
    live = [api.client.post(CHAT, json=chat(number)["body"]).json() for number in range(6)]
    batch = worked(api, create(api, as_file([chat(number) for number in range(6)]), metadata={"for": "a test"}))
    assert batch["status"] == "completed", batch
    assert batch["request_counts"] == {"total": 6, "completed": 6, "failed": 0}
    assert (batch["model"], batch["error_file_id"], batch["metadata"]) == (BASE, None, {"for": "a test"})
    found = content(api, batch["output_file_id"])
    assert [line["custom_id"] for line in found] == [f"request-{number}" for number in range(6)]
    said = [line["response"]["body"]["choices"] for line in found]
    assert said == [answer["choices"] for answer in live]
    assert {(line["response"]["status_code"], line["error"]) for line in found} == {(200, None)}
    rows = [row for row in bills(api) if row.is_batch]
    assert {row.request_id for row in rows} == {line["response"]["request_id"] for line in found}
    for name, told in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")):
        total = sum(line["response"]["body"]["usage"][told] for line in found)
        assert sum(getattr(row, name) for row in rows) == total == batch["usage"][name]
    price = PriceTable.load().price_of(BASE, NOW)
    assert sum(row.output_cost for row in rows) * 2 == batch["usage"]["output_tokens"] * price.output
    file = api.client.get(f"/v1/files/{batch['output_file_id']}").json()
    assert (file["purpose"], file["filename"]) == ("batch_output", f"{batch['id']}_output.jsonl")
    assert file["expires_at"] - file["created_at"] == 30 * 86_400
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]
    with read(api.engine) as conn:
        assert [(row.topic, row.payload["data"]) for row in notices(conn, api.project_id)] == [
            ("batch.completed", {"id": batch["id"]})
        ]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"prompt": "Once", "max_tokens": 3}),
        ("/v1/responses", {"input": "Once", "max_output_tokens": 16, "store": False}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["Once", "upon a time"]}),
    ],
)
def test_every_endpoint_is_billed_by_its_own_usage(api: Api, endpoint: str, body: dict[str, Any]) -> None:
    request = {"custom_id": "a", "method": "POST", "url": endpoint, "body": {"model": BASE, **body}}
    batch = worked(api, create(api, as_file([request]), endpoint))
    assert batch["status"] == "completed", batch
    [line], [row] = content(api, batch["output_file_id"]), bills(api)
    usage = line["response"]["body"]["usage"]
    assert usage["total_tokens"] == row.input_tokens + row.output_tokens == batch["usage"]["total_tokens"] > 0
    assert row.is_batch


def test_what_one_request_is_refused_for_is_its_own_line_of_the_error_file(api: Api) -> None:
    faulty = {"temperature": 9, "n": "two", "messages": []}
    requests = [chat(0), *(chat(number, **{name: faulty[name]}) for number, name in enumerate(faulty, 1))]
    batch = worked(api, create(api, as_file(requests)))
    assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 4, "completed": 1, "failed": 3})
    assert len(content(api, batch["output_file_id"])) == 1
    for line, (name, value) in zip(content(api, batch["error_file_id"]), faulty.items(), strict=True):
        live = api.client.post(CHAT, json=chat(1, **{name: value})["body"])
        assert (line["response"]["status_code"], line["error"]) == (live.status_code, None), name
        assert line["response"]["body"] == live.json(), name
        assert line["text"] == text_of(live.headers) is not None, name
    assert len([row for row in bills(api) if row.is_batch]) == 1


def test_completed_is_also_a_batch_of_which_every_request_failed(api: Api) -> None:
    batch = worked(api, create(api, as_file([chat(0, temperature=9)])))
    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert len(content(api, batch["error_file_id"])) == 1


BAD: dict[str, tuple[list[Line | bytes], str, int | None]] = {
    "empty": ([], "empty_file", None),
    "blank lines": ([b"", b"  "], "empty_file", None),
    "no json": ([chat(0), b"{"], "invalid_json_line", 2),
    "no object": ([chat(0), b"[1]"], "invalid_request", 2),
    "not utf-8": ([b'{"custom_id": "\xff"}'], "invalid_json_line", 1),
    "nul": ([chat(0), {**chat(1), "url": "/\0"}], "url_mismatch", 2),
    "twice": ([chat(0), chat(1), chat(0)], "duplicate_custom_id", 3),
    "no custom_id": ([{**chat(0), "custom_id": None}], "invalid_request", 1),
    "a number as custom_id": ([{**chat(0), "custom_id": 7}], "invalid_request", 1),
    "method": ([{**chat(0), "method": "GET"}], "invalid_request", 1),
    "url": ([chat(0), {**chat(1), "url": "/v1/completions"}], "url_mismatch", 2),
    "body": ([{**chat(0), "body": "text"}], "invalid_request", 1),
    "no model": ([chat(0), chat(1, model=None)], "invalid_request", 2),
    "two models": ([chat(0), chat(1, model="gpt-4o")], "model_mismatch", 2),
    "unknown model": ([chat(0, model="no-such-model")], "model_not_found", 1),
    "streamed": ([chat(0), chat(1, stream=True)], "invalid_request", 2),
}


@pytest.mark.parametrize("name", BAD)
def test_faults_of_content_fail_the_batch_with_the_line(api: Api, name: str) -> None:
    requests, code, line = BAD[name]
    batch = worked(api, create(api, as_file(requests)))
    assert batch["status"] == "failed"
    assert [(error["code"], error["line"]) for error in batch["errors"]["data"]] == [(code, line)], batch["errors"]
    (error,) = batch["errors"]["data"]
    assert error["message"] == translator("en").word(error, "message") != translator("ja").word(error, "message")
    assert (batch["output_file_id"], batch["error_file_id"], bills(api)) == (None, None, [])
    assert batch["failed_at"] is not None and batch["in_progress_at"] is None


def test_every_faulty_line_is_told_up_to_a_bound(api: Api) -> None:
    batch = worked(api, create(api, as_file([chat(0), *[b"{"] * 150])))
    assert [error["line"] for error in batch["errors"]["data"]] == list(range(2, 102))


def test_a_file_that_is_deleted_in_between_fails_the_batch(api: Api) -> None:
    batch = create(api, as_file([chat(0)]))
    assert api.client.delete(f"/v1/files/{batch['input_file_id']}").status_code == 200
    ended = worked(api, batch)
    assert (ended["status"], ended["errors"]["data"][0]["code"]) == ("failed", "input_file_not_found")


def test_the_most_requests_are_taken_and_one_more_is_not(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(as_file([chat(number) for number in range(lines.MAX_REQUESTS)]))
    found = lines.examine(path, CHAT)
    assert (len(found.places), found.problems) == (50_000, [])
    with path.open("ab") as file:
        file.write(as_file([chat(-1)]))
    assert [each["code"] for each in lines.examine(path, CHAT).problems] == ["too_many_tasks"]


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_that_is_too_long_is_one_line_and_never_read_whole(tmp_path: Path, end: bytes) -> None:
    """Several times as long, and exactly one byte too long: what follows keeps its place."""
    path, good = tmp_path / "input.jsonl", as_file([chat(0)])
    for num_bytes in (lines.MAX_PROMPT_BYTES + 1, 3 * lines.MAX_PROMPT_BYTES):
        path.write_bytes(good + b"x" * (num_bytes - 1) + b"\n" + as_file([chat(1)]).rstrip() + end)
        found = lines.examine(path, CHAT)
        assert [(each["line"], each["code"]) for each in found.problems] == [(2, "invalid_request")]
        assert [place.line for place in found.places] == [1, 2, 3]
        assert found.places[1].num_bytes == lines.MAX_PROMPT_BYTES + 1
        assert [found.request(found.places[n])["custom_id"] for n in (0, 2)] == ["request-0", "request-1"]


def test_embeddings_of_a_batch_are_bounded_by_their_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_REQUESTS", 5)
    texts = {"text": 1, "ids": 1, "texts": 2, "lists": 1}
    inputs = {"text": "a", "ids": [1, 2, 3], "texts": ["a", "b"], "lists": [[1, 2]]}
    url, path = "/v1/embeddings", tmp_path / "input.jsonl"
    requests = [
        {**chat(n), "url": url, "body": {"model": "m", "input": each}} for n, each in enumerate(inputs.values())
    ]
    path.write_bytes(as_file(requests))
    found = lines.examine(path, url)
    assert (found.num_texts, found.problems) == (sum(texts.values()), [])
    path.write_bytes(as_file([*requests, {**requests[0], "custom_id": "more"}]))
    assert [(each["code"], each["line"]) for each in lines.examine(path, url).problems] == [("too_many_tasks", 5)]


def test_the_largest_file_is_taken_and_a_byte_more_is_not(api: Api) -> None:
    most = 200 * 1024**2
    assert api.make_file(b"x" * most, purpose="batch")["bytes"] == most
    for name, size in (("a.jsonl", most + 1), ("a.txt", 1_000), ("jsonl", 1_000)):
        answer = api.client.post("/v1/files", files={"file": (name, b"x" * size)}, data={"purpose": "batch"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file"), name


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"input_file_id": "file-of-nobody"}, "file_id"),
        ({"input_file_id": None}, "input_file_id"),
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"endpoint": 1}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 2592001}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"model": BASE}, "model"),
    ],
)
def test_what_is_wrong_with_the_request_itself_is_told_at_once(api: Api, values: dict[str, Any], param: str) -> None:
    file = api.make_file(as_file([chat(0)]), purpose="batch")
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h", **values}
    answer = api.client.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert api.client.get("/v1/batches").json()["data"] == []


def test_files_of_another_purpose_and_of_others_are_refused(api: Api) -> None:
    training = api.make_file()
    other = {"authorization": f"Bearer {api.make_key(project_id=api.make_project())}"}
    mine = api.make_file(as_file([chat(0)]), purpose="batch")
    for file, headers in ((training, None), (mine, other)):
        body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        assert api.client.post("/v1/batches", json=body, headers=headers).status_code == 400
    batch = create(api, as_file([chat(0)]))
    assert api.client.get(f"/v1/batches/{batch['id']}", headers=other).status_code == 404
    assert api.client.post(f"/v1/batches/{batch['id']}/cancel", headers=other).status_code == 404
    assert api.client.get("/v1/batches", headers=other).json()["data"] == []


def test_pages_are_newest_first(api: Api) -> None:
    made = [create(api, as_file([chat(0)]))["id"] for _ in range(3)]
    first = api.client.get("/v1/batches", params={"limit": 2}).json()
    assert ([each["id"] for each in first["data"]], first["has_more"]) == (made[:0:-1], True)
    second = api.client.get("/v1/batches", params={"after": first["last_id"]}).json()
    assert ([each["id"] for each in second["data"]], second["has_more"]) == (made[:1], False)


def test_a_batch_that_nobody_has_begun_is_cancelled_without_files(api: Api) -> None:
    batch = create(api, as_file([chat(0)]))
    for _ in range(2):  # again: no change
        assert api.client.post(f"/v1/batches/{batch['id']}/cancel").json()["status"] == "cancelling"
    ended = worked(api, batch)
    assert (ended["status"], ended["output_file_id"], bills(api)) == ("cancelled", None, [])
    assert ended["cancelling_at"] <= ended["cancelled_at"]
    again = api.client.post(f"/v1/batches/{batch['id']}/cancel")
    assert again.status_code == 400 and "cancelled" in again.json()["error"]["message"]


def long_batch(api: Api, number: int = 40) -> dict[str, Any]:
    return create(api, as_file([chat(each, max_completion_tokens=200) for each in range(number)]))


def delivered(api: Api, batch: dict[str, Any], code: str, number: int = 40) -> list[dict[str, Any]]:
    """Each request stands in one of the files, and what was answered is what was paid for."""
    answers, failed = content(api, batch["output_file_id"]), content(api, batch["error_file_id"])
    told = [line["custom_id"] for line in answers + failed]
    assert sorted(told) == sorted(f"request-{each}" for each in range(number))
    left_out = [line for line in failed if line["response"] is None]
    assert {line["error"]["code"] for line in left_out} <= {code}
    assert all(line["text"] == reference(say(line["text"]["key"])) for line in left_out)
    rows = {row.request_id: row.output_tokens for row in bills(api)}
    assert rows == {
        line["response"]["request_id"]: line["response"]["body"]["usage"]["completion_tokens"] for line in answers
    }
    return failed


def in_work(api: Api, batch: dict[str, Any]) -> None:
    deadline = time.monotonic() + 60
    while get(api, batch)["request_counts"]["completed"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_cancelling_delivers_what_was_answered(api: Api) -> None:
    batch = long_batch(api)
    with worker(api.context):
        in_work(api, batch)
        api.client.post(f"/v1/batches/{batch['id']}/cancel")
        ended = until(api, batch, *ENDED)
    assert ended["status"] == "cancelled"
    assert delivered(api, ended, "batch_cancelled")


def test_a_batch_expires_after_a_day_with_what_was_answered(api: Api) -> None:
    batch = long_batch(api)
    with worker(api.context):
        in_work(api, batch)
        api.clock.now += WINDOW_S
        ended = until(api, batch, *ENDED)
    assert (ended["status"], ended["expires_at"]) == ("expired", batch["created_at"] + WINDOW_S)
    assert delivered(api, ended, "batch_expired")


def test_a_key_whose_right_ended_ends_its_batch(api: Api) -> None:
    secret = api.make_key()
    file = api.make_file(as_file([chat(each, max_completion_tokens=200) for each in range(40)]), purpose="batch")
    body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
    batch = api.client.post("/v1/batches", json=body, headers=api.as_key(secret)).json()
    with worker(api.context):
        in_work(api, batch)
        with write(api.engine) as conn:
            keys = tables.api_keys
            conn.execute(update(keys).where(keys.c.name == "made by a test").values(revoked_at=int(NOW)))
        ended = until(api, batch, *ENDED)
    assert (ended["status"], ended["errors"]["data"][0]["code"]) == ("failed", "invalid_api_key")
    assert delivered(api, ended, "batch_failed")


def test_a_key_without_the_right_to_ask_makes_and_cancels_no_batch(api: Api) -> None:
    batch = create(api, as_file([chat(0)]))
    reading = api.as_key(api.make_key(scopes=("api.model.read",)))
    assert api.client.get(f"/v1/batches/{batch['id']}", headers=reading).status_code == 200
    assert api.client.post(f"/v1/batches/{batch['id']}/cancel", headers=reading).status_code == 403
    body = {"input_file_id": batch["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
    assert api.client.post("/v1/batches", json=body, headers=reading).status_code == 403


def test_a_worker_that_stops_leaves_the_rest_to_the_next(api: Api) -> None:
    batch = long_batch(api)
    with worker(api.context):
        in_work(api, batch)
    assert get(api, batch)["status"] == "in_progress"
    ended = worked(api, batch)
    assert (ended["status"], ended["request_counts"]["completed"]) == ("completed", 40)
    assert delivered(api, ended, "") == []


def test_a_batch_that_was_claimed_as_the_worker_stops_is_free_at_once(api: Api) -> None:
    batch, stop = create(api, as_file([chat(0)])), threading.Event()

    class Stopping(LeasedRunner):
        def _claim(self, kind: Any) -> Any:
            found = super()._claim(kind)
            stop.set()
            return found

    stopping = Stopping(Context.open(api.context.settings, api.clock), this_worker(), (BatchWork,))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stopping.run, stop).result()
    assert worked(api, batch)["status"] == "completed"  # the clock stands still: no lease ends by itself


def test_a_worker_whose_machine_slept_goes_on_with_its_batch(api: Api) -> None:
    batch = long_batch(api)
    with worker(api.context):
        in_work(api, batch)
        api.clock.now += 3600  # longer than its lease
        ended = until(api, batch, *ENDED)
    assert (ended["status"], ended["request_counts"]["completed"]) == ("completed", 40)
    assert delivered(api, ended, "") == []


@pytest.mark.parametrize("kind", ["answers", "failures", "both", "cancelled"])
def test_a_worker_that_fails_before_the_end_leaves_no_bytes_without_a_file(
    api: Api, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(leased, "RETRY_S", 0.02)
    ends = list[str]()

    def announce(_: Any, __: str, topic: str, ___: str, **____: Any) -> None:
        """The files are written and the transaction that ends the batch is not committed: three times."""
        ends.append(topic)
        if len(ends) <= 3:
            seen = get(api, batch)
            assert (seen["output_file_id"], seen["error_file_id"]) == (None, None)
            raise OSError("no space left on device")

    monkeypatch.setattr(runner, "announce", announce)
    if kind == "cancelled":
        batch = long_batch(api)
        with worker(api.context):
            in_work(api, batch)
            api.client.post(f"/v1/batches/{batch['id']}/cancel")
            ended = until(api, batch, *ENDED)
    else:
        wanted = {"answers": [{}], "failures": [{"temperature": 9}], "both": [{}, {"temperature": 9}]}[kind]
        batch = create(api, as_file([chat(number, **values) for number, values in enumerate(wanted)]))
        ended = worked(api, batch)
    assert len(ends) == 4
    named = [id for id in (ended["input_file_id"], ended["output_file_id"], ended["error_file_id"]) if id]
    assert len(named) == (3 if kind in ("both", "cancelled") else 2)
    assert set(api.context.blobs.list("files")) == {f"files/{id}" for id in named}
    assert all(content(api, id) for id in named)


def test_the_end_of_a_batch_is_told_to_webhooks_that_the_sdk_verifies(
    make_api: Callable[..., Api],
    engine_url: str,
    receiver: tuple[str, Received],  # noqa: F811
) -> None:
    api = make_api(engine_urls=[engine_url], webhook_allow_private_addresses=True)
    api.clock.now = time.time() - WINDOW_S
    types = [f"batch.{status}" for status in ENDED]
    hook = {"name": "mine", "url": receiver[0], "event_types": types}
    secret = api.client.post("/v1/webhook_endpoints", json=hook).json()["signing_secret"]
    made = {"completed": create(api, as_file([chat(0)])), "failed": create(api, b"{\n")}
    made["cancelled"] = create(api, as_file([chat(1)]))
    api.client.post(f"/v1/batches/{made['cancelled']['id']}/cancel")
    for status, batch in made.items():
        assert worked(api, batch)["status"] == status
    made["expired"] = create(api, as_file([chat(2)]))
    api.clock.now = time.time()
    assert worked(api, made["expired"])["status"] == "expired"
    with ThreadPoolExecutor(4) as senders:
        assert Dispatcher(api.context.settings, api.engine).send_due(senders) == len(ENDED)
    unwrap = OpenAI(api_key="x").webhooks.unwrap
    events = [unwrap(body, headers, secret=secret) for headers, body in receiver[1]]
    told = {event.type: getattr(event.data, "id", None) for event in events}
    assert told == {f"batch.{status}": batch["id"] for status, batch in made.items()}


def test_the_files_of_a_batch_lie_in_a_bucket(
    make_api: Callable[..., Api], engine_url: str, s3_settings: dict[str, Any]
) -> None:
    api = make_api(engine_urls=[engine_url], **s3_settings)
    batch = worked(api, create(api, as_file([chat(0), chat(1, n=-1)])))
    assert (batch["status"], batch["request_counts"]["failed"]) == ("completed", 1), batch
    for name, custom_id in (("output_file_id", "request-0"), ("error_file_id", "request-1")):
        assert [line["custom_id"] for line in content(api, batch[name])] == [custom_id]
        assert api.context.blobs.local_path(f"files/{batch[name]}") is None
        assert api.client.delete(f"/v1/files/{batch[name]}").status_code == 200


def test_the_files_of_a_batch_expire_when_it_says_so(api: Api) -> None:
    expires = {"anchor": "created_at", "seconds": 3600}
    batch = worked(api, create(api, as_file([chat(0), chat(1, n=-1)]), output_expires_after=expires))
    api.clock.now += 3601
    remove_expired(api.engine, api.context.blobs, api.clock())
    for file_id in (batch["output_file_id"], batch["error_file_id"]):
        assert api.client.get(f"/v1/files/{file_id}").status_code == 404


def test_requests_of_a_batch_have_no_rate_but_a_budget(make_api: Callable[..., Api], engine_url: str) -> None:
    api = make_api(engine_urls=[engine_url], requests_per_minute=1, monthly_budget=1, batch_concurrency=1)
    batch = worked(api, create(api, as_file([chat(number, max_completion_tokens=16) for number in range(4)])))
    assert (batch["request_counts"]["total"], batch["status"]) == (4, "completed")
    assert content(api, batch["output_file_id"])
    refused = content(api, batch["error_file_id"])  # the first ones have spent it
    assert {line["response"]["body"]["error"]["code"] for line in refused} == {"insufficient_quota"}
    body = {"input_file_id": batch["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
    answer = api.client.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
