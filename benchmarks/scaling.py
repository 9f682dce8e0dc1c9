"""`python benchmarks/scaling.py --json`: what jobs, pages, lines of the ledger, models and engines cost, being many.

Of each database, with its usual safety; milliseconds are medians:

claim_ms          a worker's claim of one of 2,000 queued jobs of 20 projects, beside a million that have ended
page_ms           100 jobs, the newest and those in the middle
search_ms         20 jobs by a word that only old ones have
scrape_ms         what `/metrics` counts in the database
ledger_ms         one more line, beside a million
month_ms          a project's month by day
resolve_ms        a model's name among 100,000
models_ms         all 100,000 models of a project, as `GET /v1/models` wants them

And of the engines:

routing_us        the order of 64 engines for one of 100,000 models, some of them busy
engine_mb, api_mb        what they have in memory after 3,000 of 100,000 models were asked, 64 of which fit at once
engine_bytes, api_bytes  what each of the last 1,500 of them added to it
cold_ms, warm_ms  the first and the next request of a tuned model: its adapter in S3, then in the engine

What it is doing goes to standard error.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from api import BASE, KEY, SOURCE, api, job, process_of
from serve import engine_command, process, progress, resident_bytes, write_adapters
from sqlalchemy import Connection, Engine, Table, insert, literal_column, select, text, true

from tests.fixtures_services import object_store, postgres_server, settings_of_store
from tunery.domain.ids import new_id
from tunery.domain.jobs import JobStatus
from tunery.domain.models import FineTunedModel
from tunery.domain.tenants import Project
from tunery.domain.usage import Price, TokenUsage, UsageRecord
from tunery.engines.pool import Engines, Target, in_order, resolve
from tunery.models.catalog import Catalog
from tunery.models.sources.cache import ensure
from tunery.settings import Settings
from tunery.store import claims, jobs, models, outbox, tables, tenants, usage
from tunery.store.blobs import Blobs
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, read, write

NOW = 1_800_000_000
MONTH_S = 30 * 86_400
SEED_ROWS = 1_000  # written from here; the database makes the rest of them
NUM_QUEUED, NUM_PROJECTS = 2_000, 20
REPEATS = 100
MOST_S = 3.0  # of one measure
NUM_ENGINES, NUM_COLD, NUM_RESIDENT = 64, 20, 64
ROUTED = 2_000
ASKED = {"messages": [{"role": "user", "content": "Say a word."}], "max_tokens": 1, "temperature": 0}


def median_ms(act: Callable[[], object]) -> float:
    """Of a hundred times, of fewer where it is slow."""
    took: list[float] = []
    ends_at = time.perf_counter() + MOST_S
    while len(took) < REPEATS and (len(took) < 3 or time.perf_counter() < ends_at):
        started_at = time.perf_counter()
        act()
        took.append((time.perf_counter() - started_at) * 1000)
    return statistics.median(took)


# ---- rows
def multiply(conn: Connection, table: Table, times: int, *, named: str, spread: str) -> None:
    """The table's rows `times` times, `named` with another ending each time, `spread` a number of seconds earlier."""
    numbers = text(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :times) "
        "SELECT n FROM numbers"
    ).columns(literal_column("n"))
    number = numbers.bindparams(times=times - 1).subquery("numbers")
    n = literal_column("numbers.n")
    made: dict[str, Any] = {column.name: column for column in table.c if column.name != "seq"}
    made[named] = table.c[named].op("||")(literal_column("'-' || numbers.n"))
    made[spread] = table.c[spread] - n * (MONTH_S // times)
    conn.execute(insert(table).from_select(list(made), select(*made.values()).select_from(table.join(number, true()))))


def fill(database: Engine, num_jobs: int, num_lines: int, num_models: int) -> list[str]:
    """The ids of the projects."""
    migrate(database)
    with write(database) as conn:
        bootstrap(conn, clock=time.time, key=KEY)
        organization = tenants.list_organizations(conn)[0]
        projects = [Project(new_id("project"), organization.id, f"p{n}", NOW) for n in range(NUM_PROJECTS)]
        for project in projects:
            tenants.insert_project(conn, project)
        ids = [project.id for project in projects]
        seeds = [jobs.to_row(job(ids[n % NUM_PROJECTS], organization.id, n)) for n in range(SEED_ROWS)]
        conn.execute(insert(tables.jobs), [{**row, "created_at": NOW} for row in seeds])
        multiply(conn, tables.jobs, num_jobs // SEED_ROWS, named="id", spread="created_at")
        queued = [{**row, "id": new_id("job"), "status": JobStatus.QUEUED, "created_at": NOW} for row in seeds * 2]
        conn.execute(insert(tables.jobs), queued[:NUM_QUEUED])
        for n in range(SEED_ROWS):
            usage.record_usage(conn, line(ids[n % NUM_PROJECTS]))
        multiply(conn, tables.usage_records, num_lines // SEED_ROWS, named="request_id", spread="created_at")
        for n in range(SEED_ROWS):
            models.insert_model(conn, model(ids[0], organization.id, n))
        multiply_models(conn, num_models // SEED_ROWS)
    if database.dialect.name == "postgresql":
        with database.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(text("VACUUM ANALYZE"))
    return ids


def multiply_models(conn: Connection, times: int) -> None:
    """Both its id and its name are one of a kind."""
    seeds = conn.execute(select(tables.models)).mappings().all()
    for n in range(1, times):
        ending = f"-{n}"
        rows = [{**row, "id": row["id"] + ending, "name": row["name"] + ending} for row in seeds]
        conn.execute(insert(tables.models), [{k: v for k, v in row.items() if k != "seq"} for row in rows])


def line(project_id: str) -> UsageRecord:
    used = TokenUsage(input_tokens=300, output_tokens=40)
    price = Price(input=150_000, cached_input=75_000, output=600_000)
    return UsageRecord(new_id("request"), "completion", project_id, "", "key", BASE, NOW, used, price.cost(used), "usd")


def model(project_id: str, organization_id: str, number: int) -> FineTunedModel:
    name = f"ft:{BASE}:personal:s{number}:AbCd1234"
    made = new_id("model")
    owned = {"project_id": project_id, "owned_by": organization_id, "created_at": NOW, "base_model": BASE}
    return FineTunedModel(
        id=made, name=name, source=SOURCE, job_id=None, step_number=None, blob=f"adapters/{made}", **owned
    )


# ---- the databases
def measure_database(url: str, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    database = connect(url)
    started_at = time.perf_counter()
    projects = fill(database, options.jobs, options.lines, options.models)
    progress(f"{database.dialect.name}: filled in {time.perf_counter() - started_at:.0f} s")

    def reading(look: Callable[[Connection], object]) -> float:
        def looked() -> None:
            with read(database) as conn:
                look(conn)

        return median_ms(looked)

    def claimed() -> None:
        with write(database) as conn:
            assert claims.claim_next_job(conn, "worker", now=time.time(), lease_s=30)

    def counted() -> None:
        with write(database) as conn:
            usage.record_usage(conn, line(projects[0]))

    def scraped(conn: Connection) -> object:
        return jobs.count_by_status(conn), jobs.oldest_queued_at(conn), outbox.pending_lag_s(conn, NOW)

    chance = random.Random(1)
    with read(database) as conn:
        organization_id = tenants.list_organizations(conn)[0].id
        page = jobs.list_jobs(conn, projects[0], limit=100)
        table = tables.jobs
        old = table.c.project_id == projects[0], table.c.created_at < NOW - MONTH_S // 2
        middle = conn.scalars(select(table.c.id).where(*old).order_by(table.c.created_at.desc()).limit(1)).one()
        names = list(conn.scalars(select(tables.models.c.name)))
    assert len(page.items) == 100
    catalog = Catalog.load()
    yield "claim_ms", median_ms(claimed)
    yield "page_ms", reading(lambda conn: jobs.list_jobs(conn, projects[0], limit=100))
    yield "page_in_the_middle_ms", reading(lambda conn: jobs.list_jobs(conn, projects[0], after=middle, limit=100))
    yield "search_ms", reading(lambda conn: jobs.list_jobs(conn, projects[0], text="nothing-has-it", limit=20))
    yield "scrape_ms", reading(scraped)
    yield "ledger_ms", median_ms(counted)
    month: dict[str, Any] = {"width_s": 86_400, "start": NOW - MONTH_S, "end": NOW + 1}
    yield "month_ms", reading(lambda conn: usage.sum_usage(conn, organization_id, **month))
    yield "resolve_ms", reading(lambda conn: resolved(conn, catalog, chance.choice(names), projects[0]))
    yield "models_ms", reading(lambda conn: models.list_models(conn, projects[0]))
    database.dispose()


def resolved(conn: Connection, catalog: Catalog, name: str, project_id: str) -> None:
    assert resolve(conn, catalog, name, project_id).adapter is not None


# ---- the engines
def routing_us() -> float:
    chance = random.Random(2)
    urls = [f"http://10.0.0.{n}:8001" for n in range(NUM_ENGINES)]
    at_work = {url: chance.randrange(20) for url in urls}
    keys = [f"model_{chance.randrange(100_000)}" for _ in range(ROUTED)]
    started_at = time.perf_counter()
    for key in keys:
        in_order(key, urls, at_work)
    return (time.perf_counter() - started_at) / ROUTED * 1e6


def measure_engine(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    model_dir = ensure(SOURCE, Path(os.environ.get("TUNERY_MODEL_CACHE", ".cache/models")))
    yield from many_models(folder, model_dir, options)
    with process(engine_command(model_dir, 1)) as (url, _):
        cold, warm = asyncio.run(first_requests(folder, url, write_adapters(folder / "large", model_dir, 1)[0]))
    yield "cold_ms", cold
    yield "warm_ms", warm


def many_models(folder: Path, model_dir: Path, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Some of many models are asked, each once, through the api. All have the same files, of rank 1: what these take
    is not what is measured here, but what api and engine keep of those that were asked."""
    home = folder / "home-of-many"
    home.mkdir()
    names = register_models(home, write_adapters(folder / "small", model_dir, 1, rank=1)[0], options.models)
    chosen = random.Random(3).sample(names, options.asked)
    # The least memory for keys and values: what is cached of each prompt, up to its bound, would hide all else.
    command = engine_command(model_dir, 1, "--max-adapters", str(NUM_RESIDENT), "--cache-bytes", "0")
    with (
        process(command) as (url, engine_pid),
        api(home, f"sqlite:///{home / 'tunery.db'}", TUNERY_ENGINE_URLS=url) as client,
    ):
        pids = {"engine": engine_pid, "api": process_of("tunery.api").pid}
        before: dict[str, int] = {}
        for n, name in enumerate(chosen):
            if n == options.asked // 2:  # the engine knows as many as it ever will
                before = {part: resident_bytes(pid) for part, pid in pids.items()}
            client.post("/v1/chat/completions", json={**ASKED, "model": name}).raise_for_status()
        rest = options.asked - options.asked // 2
        for part, pid in pids.items():
            yield f"{part}_mb", resident_bytes(pid) / 1e6
            yield f"{part}_bytes", (resident_bytes(pid) - before[part]) / rest


def register_models(home: Path, adapter: Path, number: int) -> list[str]:
    """Models of one project, all of the same adapter in the blobs; their names."""
    database = connect(f"sqlite:///{home / 'tunery.db'}")
    migrate(database)
    Blobs.in_folder(home / "blobs").upload_dir("adapters/shared", adapter)
    with write(database) as conn:
        bootstrap(conn, clock=time.time, key=KEY)
        organization = tenants.list_organizations(conn)[0]
        project = tenants.list_projects(conn, organization.id).items[0]
        made = [replace(model(project.id, organization.id, n), blob="adapters/shared") for n in range(number)]
        conn.execute(insert(tables.models), [asdict(each) for each in made])
    database.dispose()
    return [each.name for each in made]


async def first_requests(folder: Path, url: str, adapter: Path) -> tuple[float, float]:
    """Of adapters as large as a job's: the first one fetches it from S3 and has it loaded."""
    with object_store() as endpoint:
        settings = Settings(home=folder / "home", engine_urls=[url], **settings_of_store(endpoint))
        blobs = Blobs.open(settings)
        engines = Engines(settings, blobs, Catalog.load())
        cold: list[float] = []
        warm: list[float] = []
        for n in range(NUM_COLD):
            made = model("project", "organization", n)
            blobs.upload_dir(made.blob, adapter)
            for times in (cold, warm):
                started_at = time.perf_counter()
                async with engines.post(
                    "/v1/chat/completions", dict(ASKED), Target(made.name, SOURCE, None, made)
                ) as answer:
                    await answer.read()
                times.append((time.perf_counter() - started_at) * 1000)
        await engines.close()
    return statistics.median(cold), statistics.median(warm)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    found = {"routing_us": routing_us()}
    found |= told("_sqlite", measure_database(f"sqlite:///{folder}/tunery.db", options))
    with postgres_server() as url:
        found |= told("_postgres", measure_database(url, options))
    return found | told("", measure_engine(folder, options))


def told(ending: str, measured: Iterator[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in measured:
        found[name + ending] = value
        progress(f"{name + ending}: {value:.3f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--asked", type=int, default=3_000, help="of these models, each once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunery-scaling-") as folder:
        found = {name: round(value, 3) for name, value in measure(options, Path(folder)).items()}
    text = json.dumps(found) if options.json else "\n".join(f"{name:32} {value:12.3f}" for name, value in found.items())
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
