"""Rows for the database of a test's server: jobs in every state, long lists, long curves."""

import math
import time
from typing import Any

from sqlalchemy import Engine, insert

from tests.rows import fine_tuned_model
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.ids import new_id
from tunery.domain.job_details import JobDetails
from tunery.domain.jobs import FineTuningJob, JobError, JobStatus
from tunery.domain.names import new_name
from tunery.store import models, tenants
from tunery.store.database import write
from tunery.store.jobs import to_row
from tunery.store.tables import job_events, jobs

BASE = "gpt-4o-mini-2024-07-18"
REASONS = {
    "n_epochs": "72 examples: 3 passes over them",
    "batch_size": "about 0.2 % of 72 examples, at least 4",
    "learning_rate_multiplier": "the base model's usual rate",
}
SUFFIXES = {
    JobStatus.VALIDATING_FILES: "invoice-fields",
    JobStatus.QUEUED: "order-status",
    JobStatus.RUNNING: "house-style",
    JobStatus.PAUSED: "legal-summaries",
    JobStatus.FAILED: "faq-draft",
    JobStatus.CANCELLED: "returns",
    JobStatus.SUCCEEDED: "weather",
}
BATCH = 2_000


def make_job(project_id: str, organization_id: str, **values: Any) -> FineTuningJob:
    defaults: dict[str, Any] = {
        "id": new_id("job"),
        "project_id": project_id,
        "organization_id": organization_id,
        "created_at": int(time.time()) - 600,
        "status": JobStatus.QUEUED,
        "model": BASE,
        "base_model": BASE,
        "training_file": new_id("file"),
        "validation_file": None,
        "method": "supervised",
        "hyperparameters": Hyperparameters(3, 4, 1.8),
        "seed": 7,
        "details": JobDetails(hyperparameter_reasons=REASONS),
    }
    return FineTuningJob(**defaults | values)


def finished_job(project_id: str, organization_id: str, *, suffix: str, **values: Any) -> FineTuningJob:
    started = int(time.time()) - 500
    done: dict[str, Any] = {
        "status": JobStatus.SUCCEEDED,
        "suffix": suffix,
        "started_at": started,
        "finished_at": started + 74,
        "fine_tuned_model": str(new_name(base=BASE, organization="personal", suffix=suffix)),
        "trained_tokens": 11_742,
        "step": 54,
        "total_steps": 54,
    }
    return make_job(project_id, organization_id, **done | values)


def insert_model(database: Engine, job: FineTuningJob) -> None:
    """The model that a finished job made; there are no weights under it."""
    assert job.fine_tuned_model is not None
    made = {"name": job.fine_tuned_model, "project_id": job.project_id, "created_at": job.created_at, "job_id": job.id}
    model = fine_tuned_model(base_model=BASE, owned_by=job.organization_id, **made)
    with write(database) as conn:
        models.insert_model(conn, model)


def insert_jobs(database: Engine, many: list[FineTuningJob]) -> None:
    with write(database) as conn:
        for start in range(0, len(many), BATCH):
            conn.execute(insert(jobs), [to_row(job) for job in many[start : start + BATCH]])


def insert_curve(database: Engine, job: FineTuningJob, num_steps: int, *, first: int = 1) -> None:
    """A metrics event a step, with a validation loss every tenth."""
    rows = [_event(job, step, num_steps) for step in range(first, num_steps + 1)]
    with write(database) as conn:
        for start in range(0, len(rows), BATCH):
            conn.execute(insert(job_events), rows[start : start + BATCH])


def _event(job: FineTuningJob, step: int, num_steps: int) -> dict[str, Any]:
    loss = 0.6 + 2.4 * math.exp(-6 * step / num_steps) + 0.08 * math.sin(step * 1.7)
    data: dict[str, Any] = {
        "step": step,
        "total_steps": num_steps,
        "train_loss": loss,
        "train_mean_token_accuracy": 1 - loss / 4,
    }
    text = f"Step {step}/{num_steps}: training loss={loss:.2f}"
    if step % 10 == 0:
        data |= {"valid_loss": loss + 0.1, "valid_mean_token_accuracy": 0.97 - loss / 4}
        text += f", validation loss={loss + 0.1:.2f}"
    return {
        "id": new_id("event"),
        "job_id": job.id,
        "created_at": job.created_at + step // 50,
        "level": "info",
        "type": "metrics",
        "message": text,
        "data": data,
    }


def organization_and_project(database: Engine) -> tuple[str, str]:
    """Of the first start."""
    with write(database) as conn:
        organization = tenants.list_organizations(conn)[0]
        return organization.id, tenants.list_projects(conn, organization.id, limit=1).items[0].id


def every_state(database: Engine) -> dict[JobStatus, FineTuningJob]:
    """One job a state."""
    organization, project = organization_and_project(database)
    error = JobError(
        "invalid_training_file", "The job failed due to an invalid training file. Example 3 has no answer.", None
    )
    specific: dict[JobStatus, dict[str, Any]] = {
        JobStatus.RUNNING: {"step": 17, "total_steps": 54, "started_at": int(time.time()) - 60},
        JobStatus.PAUSED: {"step": 30, "total_steps": 54, "started_at": int(time.time()) - 400},
        JobStatus.CANCELLED: {"finished_at": int(time.time()) - 300},
        JobStatus.FAILED: {"error": error, "finished_at": int(time.time()) - 590},
    }
    made = {
        status: make_job(project, organization, status=status, suffix=SUFFIXES[status], **specific.get(status, {}))
        for status in JobStatus
        if status is not JobStatus.SUCCEEDED
    }
    made[JobStatus.SUCCEEDED] = finished_job(project, organization, suffix=SUFFIXES[JobStatus.SUCCEEDED])
    insert_jobs(database, list(made.values()))
    _insert_messages(database, made[JobStatus.FAILED], ("Created fine-tuning job", "Validating training file"), error)
    return made


def _insert_messages(database: Engine, job: FineTuningJob, before: tuple[str, ...], error: JobError) -> None:
    """What a job that failed has told, its error last."""
    told = [("info", message) for message in before] + [("error", error.message)]
    rows = [
        {
            "id": new_id("event"),
            "job_id": job.id,
            "created_at": job.created_at + seconds,
            "level": level,
            "type": "message",
            "message": message,
            "data": None,
        }
        for seconds, (level, message) in enumerate(told)
    ]
    with write(database) as conn:
        conn.execute(insert(job_events), rows)
