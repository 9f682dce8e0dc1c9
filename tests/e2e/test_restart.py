"""Processes are killed; the next start carries on."""

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# An answer that goes on as long as the context does.
LONG = {"type": "json_schema", "name": "long", "schema": {"type": "string", "minLength": 4000}}


def begin_long(client: OpenAI, **values: Any) -> str:
    """A response in the background, of which something has been said."""
    response = client.responses.create(
        model=BASE, input="Go on.", background=True, text={"format": LONG}, max_output_tokens=2000, **values
    )  # type: ignore[arg-type]
    stream = client.responses.retrieve(response.id, stream=True)
    next(event for event in stream if event.type == "response.output_text.delta")
    stream.close()
    return response.id


def test_background_responses_whose_engine_or_server_is_killed_fail_with_the_reason(
    start: Callable[..., Served],
) -> None:
    first = start()
    client = first.client().with_options(max_retries=8)
    lost = begin_long(client)
    engine = next(pid for pid in children_of(first.process.pid) if "tunery.serving" in command_of(pid))
    os.kill(engine, signal.SIGKILL)
    wait_for(lambda: client.responses.retrieve(lost).status == "failed")
    error = client.responses.retrieve(lost).error
    assert error is not None and error.code == "server_error" and "engine" in error.message

    client.responses.create(model=BASE, input="Hello", max_output_tokens=16)  # the engine is back
    conversation = client.conversations.create().id
    interrupted = begin_long(client, conversation=conversation)
    parts = children_of(first.process.pid)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    wait_for(lambda: not any(is_running(pid) for pid in parts))
    with sqlite3.connect(first.home / "tunery.db") as database:  # the server was away for an hour
        database.execute("UPDATE responses SET seen_at = seen_at - 3600 WHERE status = 'in_progress'")

    client = start(key=first.key).client().with_options(max_retries=8)
    found = client.responses.retrieve(interrupted)
    assert found.status == "failed" and found.error is not None and found.error.message
    assert list(client.responses.retrieve(interrupted, stream=True))[-1].type == "response.failed"
    assert client.responses.retrieve(lost).status == "failed"
    client.responses.create(model=BASE, input="Hello", max_output_tokens=16, conversation=conversation)


def test_server_stops_in_order(start: Callable[..., Served]) -> None:
    served = start()
    parts = children_of(served.process.pid)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
    assert (served.home / "serve.err").read_text().endswith("Stopping. A running job goes on at the next start.\n")
    assert not any(is_running(pid) for pid in parts)


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
