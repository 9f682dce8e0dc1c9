"""Exports and imports through the API and the worker's runner."""

import io
import json
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from tests.api.conftest import BASE, NOW, Api
from tunery.api.context import Context
from tunery.api.tunery.transfers import runner
from tunery.api.tunery.transfers.runner import TransferRunner
from tunery.domain.tenants import Role
from tunery.domain.transfers import KINDS, MAX_UNFINISHED
from tunery.export import spec
from tunery.jobs.identity import this_worker
from tunery.models.sources import cache
from tunery.models.sources.base import Facts
from tunery.store import models, tables
from tunery.store.database import read, write
from tunery.texts import translator

OWN = "/tunery/v1"
ENDED = ("succeeded", "failed")
Json = dict[str, Any]


@pytest.fixture
def api(
    make_api: Callable[..., Api], engine_url: str, tiny_model_dir: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Api:
    """The catalog's default base is the tiny model, for engine and worker alike."""
    monkeypatch.setattr(runner, "POLL_S", 0.02)
    monkeypatch.setattr(runner, "BEAT_S", 0.02)
    made = make_api(engine_urls=[engine_url], model_cache=home / "bases")
    source = made.context.catalog.resolve(BASE).source
    (home / "bases").mkdir()

    def copy(to: Path) -> Facts:
        shutil.copytree(tiny_model_dir, to, dirs_exist_ok=True)
        return Facts()

    cache._make(source, home / "bases", copy)
    return made


@pytest.fixture
def tuned(api: Api, tiny_adapter_dir: Path) -> str:
    source = api.context.catalog.resolve(BASE).source
    model = api.make_model(f"ft:{BASE}:personal:mine:AbCd1234", source=source)
    api.context.blobs.upload_dir(model.blob, tiny_adapter_dir)
    return model.name


@contextmanager
def worker(context: Context) -> Iterator[None]:
    stop = threading.Event()
    own = Context.open(context.settings, context.clock)
    threads = [threading.Thread(target=TransferRunner(own, this_worker(), kind).run, args=(stop,)) for kind in KINDS]
    with ExitStack() as stack:
        stack.callback(own.database.dispose)
        for thread in threads:
            thread.start()
            stack.callback(thread.join, 60)
        stack.callback(stop.set)
        yield


def create(api: Api, path: str, **body: Any) -> Json:
    answer = api.client.post(f"{OWN}/{path}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "queued"
    return answer.json()


def get(api: Api, made: Json) -> Json:
    kind = made["object"].rpartition("_")[2] + "s"
    return api.client.get(f"{OWN}/{kind}/{made['id']}").json()


def ended(api: Api, made: Json) -> Json:
    deadline = time.monotonic() + 300
    while (found := get(api, made))["status"] not in ENDED:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert found["progress"] is None
    return found


def upload(api: Api, name: str, content: bytes) -> str:
    answer = api.client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "user_data"})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def greedy(api: Api, model: str) -> str:
    asked = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_completion_tokens": 12}
    answer = api.client.post("/v1/chat/completions", json={"model": model, **asked})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


@pytest.mark.timeout(900)
def test_a_model_goes_out_and_comes_in_again_with_the_same_answers(api: Api, tuned: str) -> None:
    """Out as a tar, in as that tar; and its files one by one, with a rank that they have not."""
    with worker(api.context):
        export = ended(api, create(api, f"models/{tuned}/exports", format="adapter"))
        assert export["status"] == "succeeded", export
        assert export["proof"]["agrees"]
        content = api.client.get(f"/v1/files/{export['file_id']}/content").content
        assert len(content) == api.client.get(f"/v1/files/{export['file_id']}").json()["bytes"]
        parts = dict[str, bytes]()
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                parts[member.name.removeprefix("mine-adapter/")] = archive.extractfile(member).read()  # type: ignore
        assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= set(parts)
        taken = create(api, "imports", files=[export["file_id"]], base="gpt-4o-mini", suffix="again")
        parts["adapter_config.json"] = json.dumps(json.loads(parts["adapter_config.json"]) | {"r": 8}).encode()
        files = [upload(api, name, part) for name, part in parts.items()]
        spoilt = ended(api, create(api, "imports", files=files, base=BASE, chat_template="base"))
        taken = ended(api, taken)
    assert (spoilt["status"], spoilt["error"]["code"], spoilt["model"]) == ("failed", "import_refused", None)
    assert "says rank 8" in spoilt["error"]["message"]
    with read(api.engine) as conn:
        asked = conn.execute(select(tables.transfers.c.asked).where(tables.transfers.c.id == spoilt["id"])).scalar_one()
    assert asked["chat_template"] is None, "it may be large, and is kept for what has ended no more"
    assert (taken["status"], taken["warnings"], taken["base"]) == ("succeeded", [], BASE), taken
    name = taken["model"]
    assert name.startswith(f"ft:{BASE}:personal:again:")
    assert greedy(api, name) == greedy(api, tuned) != greedy(api, BASE)
    with read(api.engine) as conn:
        hashes = models.get_own_model(conn, name, api.project_id).base_sha256
    assert hashes == json.loads(parts["export.json"])["base"]["sha256"]
    # Listed, priced, aliased, continued and deleted as any other.
    assert name in [model["id"] for model in api.client.get("/v1/models").json()["data"]]
    price = {each["name"]: each["price"] for each in api.client.get("/tunery/v1/catalog").json()["data"]}
    assert price[name] == price[tuned] is not None
    assert api.client.post("/tunery/v1/aliases", json={"name": "prod", "target": name}).status_code == 200
    assert greedy(api, "prod") == greedy(api, name)
    job = api.client.post("/v1/fine_tuning/jobs", json={"model": name, "training_file": api.make_file()["id"]})
    assert job.status_code == 200, job.text
    assert len(api.context.blobs.list("adapters")) == 5  # PEFT left three files, the import two, the spoilt one none
    assert api.client.delete(f"/v1/models/{name}").status_code == 200
    assert len(api.context.blobs.list("adapters")) == 3
    for kind, query, ids in (
        ("exports", {"model": tuned}, [export["id"]]),
        ("imports", {}, [spoilt["id"], taken["id"]]),
    ):
        assert [each["id"] for each in api.client.get(f"{OWN}/{kind}", params=query).json()["data"]] == ids
    assert list((api.context.settings.home / "work").iterdir()) == []


def test_a_request_that_names_what_is_not_there_is_refused_at_once(api: Api, tuned: str) -> None:
    file = upload(api, "a.tar", b"x")
    twice = [file, upload(api, "a.tar", b"y")]
    for body, param in (
        ({"files": ["file-none"], "base": BASE}, "files"),
        ({"files": twice, "base": BASE}, "files"),
        ({"files": [], "base": BASE}, "files"),
        ({"files": [file], "base": tuned}, "base"),
        ({"files": [file], "base": "text-embedding-3-small"}, "base"),
        ({"files": [file], "base": BASE, "suffix": "x" * 65}, "suffix"),
        ({"files": [file], "base": BASE, "chat_template": ""}, "chat_template"),
    ):
        answer = api.client.post(f"{OWN}/imports", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    for path, body, status in (
        (f"models/{tuned}/exports", {"format": "onnx"}, 400),
        (f"models/{tuned}/exports", {"format": "gguf", "type": "q2"}, 400),
        (f"models/{BASE}/exports", {"format": "merged"}, 404),
        (f"models/ft:{BASE}:x::AbCd1234/exports", {"format": "merged"}, 404),
    ):
        assert api.client.post(f"{OWN}/{path}", json=body).status_code == status
    member = api.as_key(api.make_key(role=Role.READER))
    assert (
        api.client.post(f"{OWN}/models/{tuned}/exports", json={"format": "merged"}, headers=member).status_code == 403
    )
    for _ in range(MAX_UNFINISHED):
        create(api, f"models/{tuned}/exports", format="adapter")
    answer = api.client.post(f"{OWN}/models/{tuned}/exports", json={"format": "merged"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def test_an_export_that_fails_or_does_not_fit_offers_nothing(
    api: Api, tuned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies, a full disk in the middle, a storage limit, and a model that is deleted meanwhile."""
    files = len(api.client.get("/v1/files").json()["data"])

    def fails(told: str, code: str) -> None:
        end = ended(api, create(api, f"models/{tuned}/exports", format="merged"))
        assert (end["status"], end["file_id"], end["error"]["code"]) == ("failed", None, code), end
        assert told in end["error"]["message"]
        assert len(api.client.get("/v1/files").json()["data"]) == files
        assert len(api.context.blobs.list("files")) == files

    with worker(api.context):
        with monkeypatch.context() as patch:
            patch.setattr(spec, "exporter", lambda: ["/bin/sh", "-c", "kill -9 $$"])
            fails("ended unexpectedly", "server_error")
        with monkeypatch.context() as patch:
            full = json.dumps({"error": spec.FULL, "refused": False})
            patch.setattr(spec, "exporter", lambda: ["/bin/sh", "-c", f"echo half > $1/half; echo '{full}'"])
            fails("no room on the disk", "server_error")
        done = json.dumps({"report": {"proof": {"agrees": True}}})
        monkeypatch.setattr(spec, "exporter", lambda: ["/bin/sh", "-c", f"echo weights > $1/x; echo '{done}'"])
        limits = f"/tunery/v1/organization/projects/{api.project_id}/limits"
        assert api.client.post(limits, json={"max_storage_bytes": 1_500}).status_code == 200
        fails("do not fit", "export_refused")
        assert api.client.post(limits, json={"max_storage_bytes": None}).status_code == 200
        api.context.blobs.delete_dir(api.context.blobs.list("adapters")[0].rpartition("/")[0])
        fails("are missing", "server_error")
    assert list((api.context.settings.home / "work").iterdir()) == []


def test_the_next_worker_takes_what_a_dead_one_left(api: Api, tuned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun anew, and given up after three."""
    done = json.dumps({"report": {"proof": {"agrees": True}}})
    monkeypatch.setattr(spec, "exporter", lambda: ["/bin/sh", "-c", f"echo weights > $1/x; echo '{done}'"])
    made = [create(api, f"models/{tuned}/exports", format="adapter") for _ in range(3)]
    for each, attempts, until in zip(made, (1, 3, 1), (NOW - 1, NOW - 1, NOW + 60), strict=True):
        left = {"status": "running", "worker_id": "elsewhere/x/1/1/a", "attempts": attempts, "lease_expires_at": until}
        with write(api.engine) as conn:
            conn.execute(update(tables.transfers).where(tables.transfers.c.id == each["id"]).values(**left))
    with write(api.engine) as conn:
        row = conn.execute(select(tables.transfers).where(tables.transfers.c.id == made[1]["id"])).one()
    left_blob = f"files/{row.asked['result_id']}"
    api.context.blobs.put(left_blob, b"half")
    rest = api.context.settings.home / "work" / made[0]["id"]
    rest.mkdir(parents=True)
    (rest / "half").write_text("x")
    with worker(api.context):
        assert ended(api, made[0])["status"] == "succeeded"
        error = ended(api, made[1])["error"]
        assert "given up" in error["message"]
        assert "中止" in translator("ja").word(error, "message")
        assert left_blob not in api.context.blobs.list("files")
        assert get(api, made[2])["status"] == "running"


def test_a_worker_that_stops_gives_its_transfer_back(api: Api, tuned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        spec,
        "exporter",
        lambda: ["/bin/sh", "-c", 'echo \'{"doing": "writing", "done": 1, "total": 2}\'; exec sleep 600'],
    )
    made = create(api, f"models/{tuned}/exports", format="adapter")
    with worker(api.context):
        deadline = time.monotonic() + 60
        while (get(api, made)["progress"] or {}).get("doing") != "writing":
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert get(api, made)["status"] == "running"
    done = json.dumps({"report": {"proof": {"agrees": True}}})
    monkeypatch.setattr(spec, "exporter", lambda: ["/bin/sh", "-c", f"echo weights > $1/x; echo '{done}'"])
    with worker(api.context):
        assert ended(api, made)["status"] == "succeeded"


def test_what_is_cancelled_ends_at_once_and_leaves_nothing(
    api: Api, tuned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is being written, one that waits with the rest of a dead worker's attempt, an import; none twice."""
    writing = 'echo \'{"doing": "writing", "done": 1, "total": 2}\'; exec sleep 600'
    monkeypatch.setattr(spec, "exporter", lambda: ["/bin/sh", "-c", writing])
    sent = upload(api, "a.tar", b"x")
    made = [create(api, f"models/{tuned}/exports", format="adapter") for _ in range(2)]
    made.append(create(api, "imports", files=[sent], base=BASE))
    with write(api.engine) as conn:
        row = conn.execute(select(tables.transfers).where(tables.transfers.c.id == made[1]["id"])).one()
    api.context.blobs.put(f"files/{row.asked['result_id']}", b"half")
    blobs = {*api.context.blobs.list("files"), *api.context.blobs.list("adapters")}
    with worker(api.context):
        deadline = time.monotonic() + 60
        while (get(api, made[0])["progress"] or {}).get("doing") != "writing":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for each in made:
            kind = each["object"].rpartition("_")[2] + "s"
            ended = api.client.post(f"{OWN}/{kind}/{each['id']}/cancel").json()
            assert (ended["status"], ended["progress"], ended["error"]) == ("cancelled", None, None)
            again = api.client.post(f"{OWN}/{kind}/{each['id']}/cancel")
            assert again.status_code == 400, again.text
            assert "cannot be cancelled" in again.json()["error"]["message"]
        assert create(api, f"models/{tuned}/exports", format="adapter")["status"] == "queued", "none counts any more"
    assert {get(api, each)["status"] for each in made} == {"cancelled"}
    left = {*api.context.blobs.list("files"), *api.context.blobs.list("adapters")}
    assert left == blobs - {f"files/{row.asked['result_id']}"}
    assert api.client.get(f"/v1/files/{sent}").status_code == 200


def test_what_an_archived_project_has_under_way_ends(api: Api, tuned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is being written, one that waits, and an import; the process of the first is ended."""
    writing = 'echo \'{"doing": "writing", "done": 1, "total": 2}\'; exec sleep 600'
    monkeypatch.setattr(spec, "exporter", lambda: ["/bin/sh", "-c", writing])
    made = [create(api, f"models/{tuned}/exports", format="adapter") for _ in range(2)]
    api.make_project()
    with worker(api.context):
        deadline = time.monotonic() + 60
        while (get(api, made[0])["progress"] or {}).get("doing") != "writing":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        made.append(create(api, "imports", files=[upload(api, "a.tar", b"x")], base=BASE))
        assert api.client.post(f"/v1/organization/projects/{api.project_id}/archive").status_code == 200
    with read(api.engine) as conn:
        rows = conn.execute(select(tables.transfers)).all()
    assert {row.id: (row.status, row.worker_id) for row in rows} == {each["id"]: ("failed", None) for each in made}
    assert [row.error["code"] for row in rows[:2]] == ["project_archived"] * 2
    assert "archived" in translator("en").word(rows[0].error, "message")
    assert list((api.context.settings.home / "work").iterdir()) == []
