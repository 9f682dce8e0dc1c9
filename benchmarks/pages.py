"""`python benchmarks/pages.py --json`: what a page of the dashboard costs somebody who has been there before.

Every page is opened twice in Chromium, signed in as the owner of a project with 10,000 jobs, 1,000 files and 1,000
models, on SQLite and on Postgres. Of the second visit:

first_paint_ms   from the start of the navigation to the first contentful paint: menu and search, which need no script
whole_ms         to the largest contentful paint: what the page is about
bytes            over the wire until nothing more comes: answers with their headers, and what the socket brings
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from api import BASE, KEY, SOURCE, prepare, wait_for
from openai import OpenAI
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import insert, select, update

from tests.fixtures_services import postgres_server
from tunery.dashboard.app import PAGES
from tunery.dashboard.compare import running
from tunery.dashboard.comparison import Contestant, Plan
from tunery.dashboard.connection import Connection
from tunery.domain.completions import StoredCompletion
from tunery.domain.files import File, FilePurpose
from tunery.domain.ids import new_id
from tunery.domain.models import FineTunedModel
from tunery.launch.ports import free_port
from tunery.migrate.capture import ModelAnswer
from tunery.migrate.report import make_report
from tunery.models.sources.cache import ensure
from tunery.store import completions, files, models, tables
from tunery.store.database import connect, write

NUM_JOBS, NUM_FILES, NUM_MODELS = 10_000, 1_000, 1_000
NUM_STEPS, NUM_ROWS, NUM_REPORTED = 1_000, 500, 100
MAX_PAINT_MS, MAX_BYTES = 300, 200_000
SETTLED_MS = 500  # without a request
PAINTS = """() => new Promise((done) => new PerformanceObserver((list) => done([
  performance.getEntriesByName('first-contentful-paint')[0].startTime, list.getEntries().at(-1).startTime,
])).observe({type: 'largest-contentful-paint', buffered: true}))"""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ROW = (
    '{"messages": [{"role": "user", "content": "Ticket %d: where is my parcel?"}, '
    '{"role": "assistant", "content": "shipping"}]}\n'
)


# ---- the server and what lies in it
@contextmanager
def dashboard(home: Path, database_url: str, model_cache: Path) -> Iterator[str]:
    """The address of `python -m tunery.launch.web`: api and pages, without worker and engine."""
    port = free_port("127.0.0.1")
    known = {"HOME": home, "DATABASE_URL": database_url, "PORT": port, "MODEL_CACHE": model_cache}
    environment = {**os.environ, **{f"TUNERY_{name}": str(value) for name, value in known.items()}}
    process = subprocess.Popen([sys.executable, "-m", "tunery.launch.web"], env=environment, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=address, trust_env=False) as client:
            wait_for(client)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=20)


def fill(database_url: str) -> tuple[str, str]:
    """Rows that no page could tell from real ones. The newest job's id, and its model's name."""
    prepare(database_url, NUM_JOBS)
    database = connect(database_url)
    with write(database) as conn:
        newest = select(tables.jobs).order_by(tables.jobs.c.created_at.desc(), tables.jobs.c.seq.desc())
        jobs = conn.execute(newest.limit(NUM_MODELS)).all()
        for number, job in enumerate(jobs):
            made = tuned(job, number)
            models.insert_model(conn, made)
            named = update(tables.jobs).where(tables.jobs.c.id == job.id)
            conn.execute(named.values(fine_tuned_model=made.name, training_file=f"file-{number:04}"))
        for number in range(NUM_FILES):
            files.insert_file(conn, dataset(jobs[0].project_id, number))
        conn.execute(insert(tables.job_events), [step(jobs[0], number) for number in range(1, NUM_STEPS + 1)])
        completions.insert_completion(conn, stored(jobs[0].project_id))
    database.dispose()
    return jobs[0].id, tuned(jobs[0], 0).name


def tuned(job: Any, number: int) -> FineTunedModel:
    name = f"ft:{BASE}:personal:tickets:model{number:04}"
    made_by = {"job_id": job.id, "step_number": None, "created_at": job.created_at, "owned_by": job.organization_id}
    where = {"base_model": BASE, "source": SOURCE, "blob": f"adapters/{number}", "project_id": job.project_id}
    return FineTunedModel(id=new_id("model"), name=name, **made_by, **where)


def dataset(project_id: str, number: int) -> File:
    about = {"filename": f"tickets-{number:04}.jsonl", "bytes": 50_000, "num_rows": NUM_ROWS}
    return File(
        id=f"file-{number:04}",
        project_id=project_id,
        created_at=1_700_000_000 + number,
        purpose=FilePurpose.FINE_TUNE,
        sha256=f"{number:064}",
        blob=f"files/{number}",
        **about,  # type: ignore[arg-type]
    )


def step(job: Any, number: int) -> dict[str, Any]:
    told = {"id": new_id("event"), "job_id": job.id, "created_at": job.created_at, "level": "info", "type": "metrics"}
    data = {"step": number, "total_steps": NUM_STEPS, "train_loss": 3 / number**0.3, "train_mean_token_accuracy": 0.8}
    return {**told, "message": f"Step {number}/{NUM_STEPS}: training loss={data['train_loss']:.2f}", "data": data}


def stored(project_id: str) -> StoredCompletion:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "shipping"}}
    asked = {"messages": [{"role": "user", "content": "Where is my parcel?"}]}
    answer = {"choices": [choice], "usage": usage}
    return StoredCompletion(new_id("chat"), project_id, int(time.time()), BASE, asked, answer)


def add_by_api(address: str, job_id: str, model: str) -> dict[str, str]:
    """What has bytes: a page's parameters by their names."""
    client = OpenAI(base_url=f"{address}/v1", api_key=KEY)
    rows = "".join(ROW % number for number in range(NUM_ROWS)).encode()
    trained = client.files.create(file=("tickets.jsonl", rows), purpose="fine-tune")
    table = client.files.create(file=("tickets.csv", b"question,answer\nWhere?,Here.\n"), purpose="user_data")
    asked = {"model": BASE, "messages": [{"role": "user", "content": "Where?"}]}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": asked}
    requests = client.files.create(file=("requests.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=requests.id, endpoint="/v1/chat/completions", completion_window="24h")
    contestants = (Contestant(model=model, shots=0), Contestant(model=BASE, shots=0))
    plan = Plan(file_id=trained.id, filename="tickets.jsonl", contestants=contestants, max_rows=20)
    compared = asyncio.run(running.start(Connection(address, KEY), plan))
    report = client.files.create(file=("parity-tickets.jsonl", parity()), purpose="evals")
    answers = client.get(f"{address}/tunery/v1/stored_answers", cast_to=dict[str, Any])["data"]
    return {
        "job": job_id,
        "model": quote(model, safe=""),
        "dataset": trained.id,
        "table": table.id,
        "batch": batch.id,
        "comparison": compared,
        "report": report.id,
        "answer": answers[0]["id"],
    }


def parity() -> bytes:
    def answers(model: str) -> list[ModelAnswer]:
        question = [{"role": "user", "content": "Where is my parcel?"}]
        return [ModelAnswer(row, question, model, "shipping", "shipping") for row in range(NUM_REPORTED)]

    made = make_report(old=answers("old"), new=answers("new"), base=answers(BASE), now=int(time.time()))
    return b"".join(made.as_json_lines())


def addresses(known: dict[str, str]) -> dict[str, str]:
    """Of every page by its path. A new page with a parameter has to be given an example above."""
    places = {
        "/jobs/overlay": f"/jobs/overlay?jobs={known['job']}",
        "/jobs/{job_id}": f"/jobs/{known['job']}",
        "/jobs/{job_id}/improve": f"/jobs/{known['job']}/improve",
        "/models/{name:path}": f"/models/{known['model']}",
        "/datasets/{file_id}": f"/datasets/{known['dataset']}",
        "/datasets/{file_id}/versions": f"/datasets/{known['dataset']}/versions",
        "/datasets/table/{file_id}": f"/datasets/table/{known['table']}",
        "/stored/{answer_id}": f"/stored/{known['answer']}",
        "/batches/{batch_id}": f"/batches/{known['batch']}",
        "/compare/{file_id}": f"/compare/{known['comparison']}",
        "/evals/{eval_id}": f"/evals/{known['comparison']}",
        "/move/{file_id}": f"/move/{known['report']}",
    }
    found = {spec.path: places.get(spec.path, spec.path) for spec in PAGES}
    if missing := [path for path in found.values() if "{" in path]:
        raise SystemExit(f"no example of {', '.join(missing)}")
    return found


# ---- the browser
def open_pages(executable: str, address: str, paths: dict[str, str]) -> dict[str, dict[str, float]]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        measured = open_in(browser, address, paths)
        browser.close()
        return measured


def open_in(browser: Browser, address: str, paths: dict[str, str]) -> dict[str, dict[str, float]]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.request.post(f"{address}/dashboard/session", form={"key": KEY}, headers={"origin": address})
    page = context.new_page()
    page.set_default_timeout(60_000)
    for path in paths.values():
        visit(page, f"{address}/dashboard{path}")
    return {name: visit(page, f"{address}/dashboard{path}") for name, path in paths.items()}


def visit(page: Page, url: str) -> dict[str, float]:
    """In a page that was empty, so that nothing of the one before is still going on."""
    page.goto("about:blank")
    came = {"bytes": 0.0, "at": time.monotonic()}

    def note(num_bytes: float) -> None:
        came["bytes"] += num_bytes
        came["at"] = time.monotonic()

    session = page.context.new_cdp_session(page)
    session.on("Network.loadingFinished", lambda event: note(event["encodedDataLength"]))
    session.on("Network.webSocketFrameReceived", lambda event: note(len(event["response"]["payloadData"])))
    session.send("Network.enable")
    answer = page.goto(url)
    if answer is None or not answer.ok or "/sign-in" in page.url or page.locator("#main > [role=alert] h1").count():
        raise SystemExit(f"{url} is not shown")
    page.wait_for_function("window.did_handshake === true")
    while time.monotonic() - came["at"] < SETTLED_MS / 1000:
        page.wait_for_timeout(50)
    paint, whole = page.evaluate(PAINTS)
    session.detach()
    return {"first_paint_ms": round(paint), "whole_ms": round(whole), "bytes": round(came["bytes"])}


def measure(executable: str, database_url: str, model_cache: Path) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as home:
        url = database_url or f"sqlite:///{home}/tunery.db"
        job_id, model = fill(url)
        with dashboard(Path(home), url, model_cache) as address:
            return open_pages(executable, address, addresses(add_by_api(address, job_id, model)))


# ---- what is told
def over(measured: dict[str, dict[str, float]]) -> list[str]:
    return [
        path for path, page in measured.items() if page["first_paint_ms"] > MAX_PAINT_MS or page["bytes"] > MAX_BYTES
    ]


def show(results: dict[str, dict[str, dict[str, float]]]) -> None:
    for database, measured in results.items():
        print(f"\n{database:32} first paint, ms (limit {MAX_PAINT_MS})   whole, ms   bytes (limit {MAX_BYTES:,})")
        for path, page in measured.items():
            mark = "   over" if path in over(measured) else ""
            print(f"{path:32} {page['first_paint_ms']:27,.0f} {page['whole_ms']:11,.0f} {page['bytes']:23,.0f}{mark}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--skip-postgres", action="store_true")
    parser.add_argument("--model-cache", type=Path, default=Path(".cache/models"))
    arguments = parser.parse_args()
    executable = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if executable is None:
        raise SystemExit("No Chromium here: `sh scripts/install-debian.sh` installs it.")
    cache = arguments.model_cache.absolute()
    ensure(SOURCE, cache)
    results = {"sqlite": measure(executable, "", cache)}
    if not arguments.skip_postgres:
        with postgres_server() as url:
            results["postgres"] = measure(executable, url, cache)
    if arguments.json:
        limits = {"first_paint_ms": MAX_PAINT_MS, "bytes": MAX_BYTES}
        print(json.dumps({"limits": limits, **results, "over": {name: over(found) for name, found in results.items()}}))
    else:
        show(results)


if __name__ == "__main__":
    main()
