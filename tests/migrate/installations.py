"""Two installations of Tunery: one plays the old account, the other takes it in."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from openai import OpenAI
from sqlalchemy import Engine

from tunery.api.app import create_app
from tunery.domain.completions import StoredCompletion
from tunery.domain.files import File, FilePurpose
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.ids import new_id
from tunery.domain.jobs import Checkpoint, FineTuningJob, JobError, JobStatus
from tunery.settings import Settings
from tunery.store import completions, events, files, jobs, tenants
from tunery.store.blobs import Blobs
from tunery.store.bootstrap import bootstrap
from tunery.store.database import migrate, open_database, write

BASE = "gpt-4o-mini-2024-07-18"
LONG_AGO = 1_700_000_000


@dataclass(frozen=True)
class Installation:
    settings: Settings
    engine: Engine
    blobs: Blobs
    project_id: str
    organization_id: str
    key: str

    @contextmanager
    def serving(self) -> Iterator[OpenAI]:
        """The real api on a port; a client of it."""
        config = uvicorn.Config(create_app(self.settings), port=0, log_level="error", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=self.key, max_retries=0)
        server.should_exit = True
        thread.join()


def install(home: Path, name: str, **values: Any) -> Installation:
    home.mkdir(parents=True, exist_ok=True)
    settings = Settings(home=home, **values)
    engine = open_database(settings)
    migrate(engine)
    key = f"sk-key-of-the-{name}-installation"
    with write(engine) as conn:
        bootstrap(conn, clock=time.time, key=key)
        organization = tenants.list_organizations(conn)[0]
        project = tenants.list_projects(conn, organization.id).items[0]
    return Installation(settings, engine, Blobs.open(settings), project.id, organization.id, key)


def fill(source: Installation, *, num_jobs: int, num_files: int, num_completions: int, seed: int = 0) -> None:
    """Jobs of every ending with events and checkpoints, files of odd bytes, and stored completions."""
    draw = random.Random(seed)
    names = [fill_file(source, draw, index) for index in range(num_files)]
    with write(source.engine) as conn:
        for index in range(num_jobs):
            fill_job(conn, source, draw, index, names)
        for index in range(num_completions):
            completions.insert_completion(conn, stored_completion(source, index))


def fill_file(source: Installation, draw: random.Random, index: int) -> str:
    purpose = FilePurpose.FINE_TUNE_RESULTS if index % 3 == 0 else FilePurpose.FINE_TUNE
    file_id = new_id("file")
    blob = source.blobs.put(f"files/{file_id}", draw.randbytes(draw.randrange(1, 4000)))
    with write(source.engine) as conn:
        files.insert_file(
            conn,
            File(
                id=file_id,
                project_id=source.project_id,
                created_at=LONG_AGO + index,
                filename=f"data {index} <ü>.jsonl",
                purpose=purpose,
                bytes=blob.bytes,
                sha256=blob.sha256,
                blob=blob.path,
            ),
        )
    return file_id


def fill_job(conn: Any, source: Installation, draw: random.Random, index: int, names: list[str]) -> None:
    status = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)[index % 3]
    method = "dpo" if index % 5 == 0 else "supervised"
    job = FineTuningJob(
        id=new_id("job"),
        project_id=source.project_id,
        organization_id=source.organization_id,
        created_at=LONG_AGO + index,
        finished_at=LONG_AGO + index + 300,
        status=status,
        model=BASE,
        base_model=BASE,
        training_file=draw.choice(names),
        validation_file=draw.choice([None, *names]),
        method=method,
        hyperparameters=Hyperparameters(3, 4, 1.5, *([0.1] if method == "dpo" else [])),
        seed=draw.randrange(2**31),
        suffix="support" if index % 2 else None,
        fine_tuned_model=f"ft:{BASE}:acme:support:{index:08d}" if status is JobStatus.SUCCEEDED else None,
        trained_tokens=index * 17 if status is JobStatus.SUCCEEDED else None,
        result_files=(draw.choice(names),) if status is JobStatus.SUCCEEDED else (),
        error=JobError("invalid_training_file", "Example 3 …", "training_file") if index % 3 == 1 else None,
        metadata={"team": f"t{index % 4}"} if index % 2 else None,
    )
    jobs.insert_job(conn, job)
    for step in range(index % 7):
        data = {"step": step, "train_loss": draw.random()}
        events.add_event(conn, job.id, f"Step {step}/7", now=LONG_AGO + step, type="metrics", data=data)
    if status is JobStatus.SUCCEEDED:
        for step in (10, 20):
            name = f"ft:{BASE}:acme:support:{index:08d}:ckpt-step-{step}"
            metrics = {"step": float(step), "train_loss": draw.random()}
            made = Checkpoint(new_id("checkpoint"), job.id, LONG_AGO + step, step, name, metrics)
            events.add_checkpoint(conn, made)


def stored_completion(source: Installation, index: int) -> StoredCompletion:
    completion_id = new_id("chat")
    model = f"ft:{BASE}:acme:support:{index % 5:08d}"
    answer = {
        "index": 0,
        "finish_reason": "stop",
        "logprobs": None,
        "message": {"role": "assistant", "content": f"Answer {index} ✓", "refusal": None},
    }
    return StoredCompletion(
        id=completion_id,
        project_id=source.project_id,
        created_at=LONG_AGO + index,
        model=model,
        request={"model": model, "store": True, "messages": [{"role": "user", "content": f"Question {index}?"}]},
        response={
            "id": completion_id,
            "object": "chat.completion",
            "created": LONG_AGO + index,
            "model": model,
            "choices": [answer],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
        },
        metadata={"n": str(index)} if index % 2 else None,
    )
