"""From a job's success to the first token of its model, through a whole server: worker, database, api and engine."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from openai import OpenAI

from tunery.launch.ports import free_port

REPOSITORY = Path(__file__).parent.parent
MODEL = "gpt-4o-mini-2024-07-18"
KEY = "sk-benchmark-benchmark-benchmark"
EXAMPLES = 12
POLL_S = 0.02
START_S = 120


def success_to_first_token_s(model_cache: Path) -> float:
    """Counted from the last time the job was asked for and had not succeeded yet, so a little more than it is."""
    with server(model_cache) as client:
        lines = (REPOSITORY / "examples" / "marv.jsonl").read_bytes().splitlines(keepends=True)
        file = client.files.create(file=("few.jsonl", b"".join(lines[:EXAMPLES])), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(
            model=MODEL, training_file=file.id, hyperparameters={"n_epochs": 1, "batch_size": 4}
        )
        asked_at = before = time.perf_counter()
        while job.status != "succeeded":
            if job.status in ("failed", "cancelled"):
                raise RuntimeError(f"the job {job.status}: {job.error}")
            time.sleep(POLL_S)
            before, asked_at = asked_at, time.perf_counter()
            job = client.fine_tuning.jobs.retrieve(job.id)
        stream = client.chat.completions.create(
            model=job.fine_tuned_model or "",
            messages=[{"role": "user", "content": "Who wrote Faust?"}],
            max_tokens=8,
            stream=True,
        )
        next(chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
        return time.perf_counter() - before


@contextmanager
def server(model_cache: Path) -> Iterator[OpenAI]:
    """`tunery serve` with a home of its own, and a client of it."""
    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TUNERY_")},
            "TUNERY_HOME": home,
            "TUNERY_MODEL_CACHE": str(model_cache.absolute()),
            "TUNERY_API_KEY": KEY,
        }
        command = [sys.executable, "-m", "tunery", "serve", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until_up(f"http://127.0.0.1:{port}", process)
            yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY)
        finally:
            process.terminate()
            process.wait(60)


def wait_until_up(url: str, process: subprocess.Popen) -> None:
    """Database, worker and engine."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health").json()["status"] == "ok":
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the server did not start")
