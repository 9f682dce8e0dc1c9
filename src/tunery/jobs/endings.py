"""The ends of a job that are no success. Each in the caller's transaction: status, event and outbox together."""

from typing import Any

from sqlalchemy import Connection

from tunery.domain.jobs import FineTuningJob, JobError, JobStatus
from tunery.jobs import event_texts
from tunery.jobs.checkpoints import publish_checkpoints
from tunery.notify.announce import announce_end
from tunery.store import claims, events, jobs


def reject(
    conn: Connection, job_id: str, worker_id: str, error: JobError, *, problems: list[dict[str, Any]], now: float
) -> None:
    """The files cannot be used. `problems`: line, message and suggestion of the first ones, for the mail."""
    jobs.update_details(conn, job_id, {"problems": problems})
    job = claims.reject_job(conn, job_id, worker_id, error=error, now=now)
    tell_failure(conn, job, now=now)


def fail(
    conn: Connection,
    job_id: str,
    worker_id: str,
    error: JobError,
    *,
    now: float,
    resumable: bool = False,
    publish: bool = True,
) -> None:
    """`publish`: checkpoints that are safe become models of their own, so that what was trained is not lost."""
    job = claims.fail_job(conn, job_id, worker_id, error=error, now=now, resumable=resumable)
    if publish:
        publish_checkpoints(conn, job, now=now)
    tell_failure(conn, job, now=now)
    if resumable:
        events.add_event(conn, job_id, event_texts.KEPT, now=now)


def pause(conn: Connection, job_id: str, worker_id: str, *, now: float) -> None:
    tell_pause(conn, claims.pause_job(conn, job_id, worker_id, now=now), now=now)


def tell_stalled(conn: Connection, job: FineTuningJob, *, now: float) -> None:
    """What became of a job whose worker fell silent."""
    if job.status is JobStatus.CANCELLED:
        tell_cancellation(conn, job, now=now)
    elif job.status is JobStatus.PAUSED:
        tell_pause(conn, job, now=now)
    else:
        events.add_event(conn, job.id, event_texts.WORKER_LOST, now=now, level="warn")


def tell_failure(conn: Connection, job: FineTuningJob, *, now: float) -> None:
    assert job.error is not None
    data = {"error_code": job.error.code}
    events.add_event(conn, job.id, job.error.message, now=now, level="error", data=data, text=job.error.text)
    announce_end(conn, job, now=now)


def tell_pause(conn: Connection, job: FineTuningJob, *, now: float) -> None:
    """A pause leaves models to try, as OpenAI's does."""
    publish_checkpoints(conn, job, now=now)
    events.add_event(conn, job.id, event_texts.PAUSED, now=now)


def tell_cancellation(conn: Connection, job: FineTuningJob, *, now: float, by: str | None = None) -> None:
    """`by`: the user who cancelled it. Whoever cancels a job of their own knows, and gets no mail."""
    publish_checkpoints(conn, job, now=now)
    events.add_event(conn, job.id, event_texts.CANCELLED, now=now)
    announce_end(conn, job, now=now, mail=by is None or by != job.created_by)
