"""`python benchmarks/evals.py --json`: how fast rows are graded, and how a run uses the engine.

python_rows_per_s  rows that Python graders grade in warm processes, two sources in turn
run_rows_per_s     rows of a run that are graded by Python, from its start to its end
speed_ratio        a run's output tokens a second, by those of 32 streaming clients at the engine

What it is doing goes to standard error.

`--rows` sets how many rows the run has that a model answers (1000), `--graded` how many are graded by Python (20000).
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from batch import BASE, NUM_CLIENTS, SOURCE, prepare, requests, served, streams
from openai import OpenAI
from serve import process, progress

from tunery.models.sources.cache import ensure
from tunery.sandbox.pool import MAX_WAITING_OF_ONE, Sandbox

PROJECTS = ("proj_one", "proj_two")
GRADE = "def grade(sample, item):\n    return float(sample['output_text'] == item['label']){note}\n"
TOKENS = 64


def python_speed(number: int) -> float:
    """Rows a second, of two projects, whose processes are warm."""

    async def run() -> float:
        sandbox = Sandbox()
        sources = {project: GRADE.format(note=f"  # {project}") for project in PROJECTS}

        async def grade(project: str, rows: Any) -> None:
            for row in rows:
                sample, item = {"output_text": "billing"}, {"label": "billing", "ticket": f"Ticket {row}"}
                assert await sandbox.grade(sources[project], sample, item, project_id=project) == 1.0

        async def all_rows(number: int) -> None:
            rows = {project: iter(range(number // len(PROJECTS))) for project in PROJECTS}
            await asyncio.gather(
                *(grade(project, rows[project]) for project in PROJECTS for _ in range(MAX_WAITING_OF_ONE))
            )

        await all_rows(200)
        started_at = time.perf_counter()
        await all_rows(number)
        took = time.perf_counter() - started_at
        await sandbox.close()
        return number / took

    found = asyncio.run(run())
    progress(f"python graders: {found:.0f} rows/s")
    return found


def new_eval(client: OpenAI, criterion: dict[str, Any]) -> str:
    config: Any = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}
    criteria: Any = [criterion]
    return client.evals.create(data_source_config=config, testing_criteria=criteria).id


def run_of(client: OpenAI, eval_id: str, rows: list[dict[str, Any]], **source: Any) -> Any:
    """The run when it has ended, and how long it took."""
    content = "\n".join(map(json.dumps, rows)).encode()
    file = client.files.create(file=("rows.jsonl", content), purpose="evals")
    data_source: Any = {"type": "jsonl", **source, "source": {"type": "file_id", "id": file.id}}
    started_at = time.perf_counter()
    run = client.evals.runs.create(eval_id, data_source=data_source)
    while (found := client.evals.runs.retrieve(run.id, eval_id=eval_id)).status in ("queued", "in_progress"):
        time.sleep(0.2)
    took = time.perf_counter() - started_at
    assert found.status == "completed" and not found.result_counts.errored, found
    return found, took


def graded_speed(client: OpenAI, number: int) -> float:
    eval_id = new_eval(client, {"type": "python", "name": "same", "source": GRADE.format(note="")})
    rows = [{"item": {"label": "a", "n": n}, "sample": {"output_text": "a"}} for n in range(number)]
    run_of(client, eval_id, rows[:200])
    _, took = run_of(client, eval_id, rows)
    progress(f"a run graded by Python: {number / took:.0f} rows/s")
    return number / took


def run_speed(client: OpenAI, number: int, first: int) -> float:
    same = {
        "type": "string_check",
        "name": "same",
        "operation": "like",
        "input": "{{sample.output_text}}",
        "reference": "",
    }
    rows = [{"item": {"messages": each["messages"]}} for each in requests(number, [BASE], first)]
    run, took = run_of(
        client,
        new_eval(client, same),
        rows,
        type="completions",
        model=BASE,
        input_messages={"type": "item_reference", "item_reference": "item.messages"},
        sampling_params={"temperature": 0, "max_completion_tokens": TOKENS},
    )
    found = sum(each.completion_tokens for each in run.per_model_usage) / took
    progress(f"a run of {number} rows: {found:.0f} tokens/s")
    return found


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The clients' half before and half after, so that other work on the machine hits both alike."""
    python_rows = python_speed(options.graded)
    model_dir = ensure(SOURCE, Path(os.environ.get("TUNERY_MODEL_CACHE", ".cache/models")))
    home, number = folder / "home", options.rows
    home.mkdir()
    prepare(home, [])
    command = [sys.executable, "-m", "tunery.serving", "--model-dir", str(model_dir), "--served-name", SOURCE]
    with process(command) as (url, _), served(home, url) as client:
        graded = graded_speed(client, options.graded)
        streams(url, requests(NUM_CLIENTS, [SOURCE], 0))
        run_speed(client, NUM_CLIENTS, 1_000)
        clients = [streams(url, requests(number // 2, [SOURCE], 10_000))]
        runs = run_speed(client, number, 100_000)
        clients.append(streams(url, requests(number // 2, [SOURCE], 200_000)))
    return {
        "python_rows_per_s": python_rows,
        "run_rows_per_s": graded,
        "clients_tokens_per_s": statistics.harmonic_mean(clients),
        "run_tokens_per_s": runs,
        "speed_ratio": runs / statistics.harmonic_mean(clients),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--graded", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunery-evals-") as folder:
        found = measure(options, Path(folder))
    text = json.dumps(found) if options.json else "\n".join(f"{name:22} {value:.3f}" for name, value in found.items())
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
