"""What was lost and what was repeated of all that a cluster was asked to do: read from its database and from what the
clients received."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from openai import APIError
from sqlalchemy import Connection, select

from tests.cluster.clients import ASKED
from tests.cluster.load import Done, Project
from tests.rows import ledger
from tunery.domain.jobs import FineTuningJob, JobEvent, JobStatus
from tunery.store import events
from tunery.store.database import Engine, read
from tunery.store.tables import models

SUCCESS = "The job has successfully completed"


def lost(database: Engine, stages: Sequence[Done]) -> dict[str, list[str]]:
    with read(database) as conn:
        found = {
            "jobs that did not succeed": [each for done in stages for each in _unsuccessful(done.jobs)],
            "steps never told": [each for done in stages for job in done.jobs for each in _untold_steps(conn, job)],
            "models that do not answer": [],
            "requests unanswered": [each for done in stages for told in done.told for each in told.unanswered],
            "tokens received and not charged": _tokens(conn, stages, is_lost=True),
        }
    found["models that do not answer"] = [each for done in stages for each in _silent_models(done)]
    return found


def repeated(database: Engine, stages: Sequence[Done]) -> dict[str, list[str]]:
    with read(database) as conn:
        return {
            "steps told twice or late": [
                each for done in stages for job in done.jobs for each in _repeated_steps(conn, job)
            ],
            "jobs ended twice": [each for done in stages for job in done.jobs for each in _repeated_ends(conn, job)],
            "models registered twice": _repeated_models(conn),
            "charged twice": [each for project in stages[-1].projects for each in _repeated_charges(conn, project)],
            "tokens charged and not received": _tokens(conn, stages, is_lost=False),
        }


def _unsuccessful(jobs: Sequence[FineTuningJob]) -> Iterator[str]:
    for job in jobs:
        if job.status is not JobStatus.SUCCEEDED:
            yield f"{job.id} is {job.status}: {job.error}"


def _events(conn: Connection, job: FineTuningJob) -> Sequence[JobEvent]:
    return events.list_events(conn, job.id, limit=100_000).items


def _steps(conn: Connection, job: FineTuningJob) -> list[int]:
    """In the order in which they were told."""
    newest_first = _events(conn, job)
    return [event.data["step"] for event in reversed(newest_first) if event.type == "metrics" and event.data]


def _untold_steps(conn: Connection, job: FineTuningJob) -> Iterator[str]:
    told = _steps(conn, job)
    if missing := [step for step in range(1, (job.total_steps or 0) + 1) if step not in told]:
        yield f"{job.id}: {missing}"


def _repeated_steps(conn: Connection, job: FineTuningJob) -> Iterator[str]:
    if again := [step for before, step in pairwise(_steps(conn, job)) if step <= before]:
        yield f"{job.id}: {again}"


def _repeated_ends(conn: Connection, job: FineTuningJob) -> Iterator[str]:
    times = [event.message for event in _events(conn, job)].count(SUCCESS)
    if times > 1:
        yield f"{job.id} has succeeded {times} times"


def _repeated_models(conn: Connection) -> list[str]:
    """A job has one model for each of its checkpoints."""
    made = Counter((row.job_id, row.step_number) for row in conn.execute(select(models)) if row.job_id)
    return [f"{job_id}, step {step}: {times} models" for (job_id, step), times in made.items() if times > 1]


def _silent_models(done: Done) -> Iterator[str]:
    """Of jobs that succeeded: each is asked once more, when all is over."""
    clients = {project.id: project.client for project in done.projects}
    for job in done.jobs:
        if job.fine_tuned_model is None:
            continue  # a job that did not succeed
        question: list[Any] = [{"role": "user", "content": "Are you there?"}]
        try:
            clients[job.project_id].chat.completions.create(
                model=job.fine_tuned_model, messages=question, max_tokens=1, extra_headers={"Idempotency-Key": job.id}
            )
        except APIError as exc:
            yield f"{job.fine_tuned_model}: {exc!r}"


def _repeated_charges(conn: Connection, project: Project) -> list[str]:
    """A request has one line under its client's id, a job one under its own."""
    lines = Counter(line.client_request_id or line.request_id for line in ledger(conn, project.id))
    return [f"{name}: {times} times" for name, times in lines.items() if times > 1]


def _tokens(conn: Connection, stages: Sequence[Done], *, is_lost: bool) -> list[str]:
    """Where the sums of the ledger and of what clients received differ, project by project."""
    found: list[str] = []
    for n, project in enumerate(stages[-1].projects):
        told = [done.told[n] for done in stages if done.told]
        lines = [line for line in ledger(conn, project.id) if (line.client_request_id or "").startswith(ASKED)]
        for name in ("input_tokens", "output_tokens"):
            received = sum(getattr(each, name) for each in told)
            charged = sum(getattr(line, name) for line in lines)
            if (charged < received) if is_lost else (charged > received):
                found.append(f"{name} of {project.id}: {received:,} received, {charged:,} charged")
    return found


def went_on(database: Engine, done: Done) -> list[str]:
    """Each time that a job lost its node or its worker, in its own words."""
    with read(database) as conn:
        told = [(job.id, event) for job in done.jobs for event in _events(conn, job)]
    return [f"{job_id}: {event.message}" for job_id, event in told if " was lost" in event.message]
