"""Processes are killed; the next start carries on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from openai import OpenAI

from tests.e2e.conftest import BASE, MARV, Served
from tests.e2e.test_sdk import finished
from tests.launch.processes import children_of, is_running, wait_for

pytestmark = pytest.mark.e2e


def start_job(client: OpenAI, **hyperparameters: int) -> str:
    file = client.files.create(file=MARV, purpose="fine-tune")
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    return client.fine_tuning.jobs.create(training_file=file.id, model=BASE, seed=1, method=method).id  # type: ignore[arg-type]


def steps_told(client: OpenAI, job_id: str) -> list[int]:
    events = client.fine_tuning.jobs.list_events(job_id, limit=100)
    found = [event.data["step"] for event in events if event.type == "metrics" and isinstance(event.data, dict)]
    return [int(step) for step in reversed(found)]


def test_job_survives_sigkill_of_the_server(start: Callable[..., Served]) -> None:
    first = start(TUNERY_STATE_INTERVAL_S="2")
    job_id = start_job(first.client(), n_epochs=10, batch_size=4)
    saved = first.home / "blobs" / "jobs" / job_id / "state"
    wait_for(lambda: saved.exists() and any(saved.rglob("*")), timeout_s=120)
    parts = children_of(first.process.pid)
    assert len(parts) >= 3

    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    wait_for(lambda: not any(is_running(pid) for pid in parts))

    second = start(key=first.key)
    job = finished(second.client(), job_id)
    assert job.status == "succeeded", job.error
    steps = steps_told(second.client(), job_id)
    assert steps[-1] == max(steps) == 10 * 18
    assert steps.count(1) == 1, "it began again instead of going on"


def test_fallen_engine_comes_back(start: Callable[..., Served]) -> None:
    served = start()
    log = served.home / "logs" / "engine.log"
    engine = next(pid for pid in children_of(served.process.pid) if "tunery.serving" in command_of(pid))
    os.kill(engine, signal.SIGKILL)
    wait_for(lambda: not is_running(engine))
    client = served.client().with_options(max_retries=8)
    answer = client.chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "Hello"}], max_completion_tokens=2
    )
    assert answer.choices[0].finish_reason in ("length", "stop"), log.read_text()


def test_server_stops_in_order(start: Callable[..., Served]) -> None:
    served = start()
    parts = children_of(served.process.pid)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
    assert (served.home / "serve.err").read_text().endswith("Stopping. A running job goes on at the next start.\n")
    assert not any(is_running(pid) for pid in parts)


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
