"""What a worker does with jobs: claim, heartbeat, and the transitions that only the holder of the lease may make."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, case, func, or_, select, update
from sqlalchemy.sql import ColumnElement

from tunery.domain.errors import InvalidTransition
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import FineTuningJob, JobError, JobStatus
from tunery.store.jobs import NO_WORKER, get_job, to_job
from tunery.store.paging import update_row
from tunery.store.tables import jobs, limits, projects
from tunery.texts import say


@dataclass(frozen=True)
class Flags:
    """What the API wants of a running job. A cancel needs no flag: it takes the job away from its worker."""

    pause_requested: bool


def claim_next_job(
    conn: Connection, worker_id: str, *, now: float, lease_s: float, max_running: int = 0
) -> FineTuningJob | None:
    """Give a queued job to this worker, as `running`, or None. One statement, so two workers never get the same job.

    Projects take turns: first the one with the fewest running jobs, then the one that has waited longest since its
    last turn, then the oldest job. A project at its own limit, or without one at `max_running` (0 = none), is passed
    over. Starts the lease; the caller must heartbeat within lease_s.
    """
    row = conn.execute(
        update(jobs)
        .where(jobs.c.id == _next_queued(max_running).scalar_subquery(), jobs.c.status == JobStatus.QUEUED)
        .values(
            status=JobStatus.RUNNING,
            worker_id=worker_id,
            lease_expires_at=now + lease_s,
            started_at=func.coalesce(jobs.c.started_at, int(now)),
        )
        .returning(jobs)
    ).first()
    if row is None:
        return None
    conn.execute(update(projects).where(projects.c.id == row.project_id).values(last_claimed_at=now))
    return to_job(row)


def _next_queued(max_running: int) -> Any:
    busy = (
        select(jobs.c.project_id, func.count().label("running"))
        .where(jobs.c.status == JobStatus.RUNNING)
        .group_by(jobs.c.project_id)
        .subquery("busy")
    )
    queued = jobs.alias("queued")
    running = func.coalesce(busy.c.running, 0)
    allowed = func.coalesce(limits.c.max_running_jobs, max_running)
    return (
        select(queued.c.id)
        .join(projects, projects.c.id == queued.c.project_id)
        .outerjoin(busy, busy.c.project_id == queued.c.project_id)
        .outerjoin(limits, limits.c.subject_id == queued.c.project_id)
        .where(
            queued.c.status == JobStatus.QUEUED,
            projects.c.archived_at.is_(None),
            or_(allowed == 0, running < allowed),
        )
        .order_by(running, func.coalesce(projects.c.last_claimed_at, 0), queued.c.created_at, queued.c.seq)
        .limit(1)
        .with_for_update(of=queued, skip_locked=True)
    )


def claim_validating(conn: Connection, worker_id: str, *, now: float, lease_s: float) -> FineTuningJob | None:
    """The oldest job whose files nobody checks, or whose checker fell silent. Starts the lease; the status stays."""
    waiting = jobs.alias("waiting")
    free = or_(waiting.c.lease_expires_at.is_(None), waiting.c.lease_expires_at < now)
    oldest = (
        select(waiting.c.id)
        .where(waiting.c.status == JobStatus.VALIDATING_FILES, free)
        .order_by(waiting.c.created_at, waiting.c.seq)
        .limit(1)
        .with_for_update(of=waiting, skip_locked=True)
        .scalar_subquery()
    )
    row = conn.execute(
        update(jobs)
        .where(jobs.c.id == oldest, jobs.c.status == JobStatus.VALIDATING_FILES)
        .values(worker_id=worker_id, lease_expires_at=now + lease_s)
        .returning(jobs)
    ).first()
    return None if row is None else to_job(row)


def heartbeat(
    conn: Connection,
    job_id: str,
    worker_id: str,
    *,
    now: float,
    lease_s: float,
    step: int | None = None,
    estimated_finish: int | None = None,
) -> Flags | None:
    """Prolong the lease and hear what the API wants. None: the job is no longer this worker's; it must stop at once."""
    values: dict[str, Any] = {"lease_expires_at": now + lease_s}
    if step is not None:
        values["step"] = step
    if estimated_finish is not None:
        values["estimated_finish"] = estimated_finish
    row = conn.execute(
        update(jobs)
        .where(_held(job_id, worker_id, JobStatus.RUNNING, JobStatus.VALIDATING_FILES))
        .values(values)
        .returning(jobs.c.pause_requested)
    ).first()
    return None if row is None else Flags(row.pause_requested)


def accept_job(conn: Connection, job_id: str, worker_id: str) -> FineTuningJob:
    """validating_files → queued."""
    values = {"status": JobStatus.QUEUED, "validated": True, **NO_WORKER}
    return _finish(conn, job_id, worker_id, values, JobStatus.VALIDATING_FILES)


def reject_job(conn: Connection, job_id: str, worker_id: str, *, error: JobError, now: float) -> FineTuningJob:
    """validating_files → failed: the files cannot be used."""
    return _finish(conn, job_id, worker_id, _failed(error, now), JobStatus.VALIDATING_FILES)


def start_job(
    conn: Connection, job_id: str, worker_id: str, *, hyperparameters: Hyperparameters, total_steps: int
) -> FineTuningJob:
    """Put numbers where `auto` was; the job runs since it was claimed."""
    values = {"hyperparameters": asdict(hyperparameters), "total_steps": total_steps}
    return _finish(conn, job_id, worker_id, values, JobStatus.RUNNING)


def finish_succeeded(
    conn: Connection,
    job_id: str,
    worker_id: str,
    *,
    fine_tuned_model: str,
    result_files: tuple[str, ...],
    trained_tokens: int,
    now: float,
) -> FineTuningJob:
    values = {
        "status": JobStatus.SUCCEEDED,
        "finished_at": int(now),
        "fine_tuned_model": fine_tuned_model,
        "result_files": list(result_files),
        "trained_tokens": trained_tokens,
        "estimated_finish": None,
        **NO_WORKER,
    }
    return _finish(conn, job_id, worker_id, values, JobStatus.RUNNING)


def fail_job(
    conn: Connection, job_id: str, worker_id: str, *, error: JobError, now: float, resumable: bool = False
) -> FineTuningJob:
    """running → failed. `resumable`: what the job had reached is kept, and resume goes on from there."""
    values = {**_failed(error, now), "resumable": resumable}
    return _finish(conn, job_id, worker_id, values, JobStatus.RUNNING)


def pause_job(conn: Connection, job_id: str, worker_id: str, *, now: float) -> FineTuningJob:
    """running → paused, once the worker has saved what the job resumes from."""
    values = {
        "status": JobStatus.PAUSED,
        "pause_requested": False,
        "paused_at": int(now),
        "estimated_finish": None,
        **NO_WORKER,
    }
    return _finish(conn, job_id, worker_id, values, JobStatus.RUNNING)


def release_job(conn: Connection, job_id: str, worker_id: str) -> FineTuningJob:
    """Give the job back, unharmed: by a worker that shuts down, or after what is no fault of the job's."""
    values = {
        "status": case((jobs.c.status == JobStatus.RUNNING, JobStatus.QUEUED.value), else_=jobs.c.status),
        **NO_WORKER,
    }
    return _finish(conn, job_id, worker_id, values, JobStatus.RUNNING, JobStatus.VALIDATING_FILES)


def count_death(conn: Connection, job_id: str, worker_id: str, *, step: int) -> FineTuningJob:
    """The trainer died, and the newest state is of `step`: one more death, or the first one again when the job had got
    further than at the last."""
    got_further = step > func.coalesce(jobs.c.died_at_step, -1)
    values = {"attempts": case((got_further, 1), else_=jobs.c.attempts + 1), "died_at_step": step}
    return _finish(conn, job_id, worker_id, values, JobStatus.RUNNING)


def list_holders(conn: Connection) -> tuple[str, ...]:
    """The workers that hold a job."""
    rows = conn.execute(select(jobs.c.worker_id).where(jobs.c.worker_id.is_not(None)).distinct())
    return tuple(row.worker_id for row in rows)


def expire_leases(conn: Connection, worker_ids: tuple[str, ...]) -> None:
    """For workers that are known to be dead: what they held is stalled now, not when the lease runs out."""
    conn.execute(update(jobs).where(jobs.c.worker_id.in_(worker_ids)).values(lease_expires_at=0))


def requeue_stalled(conn: Connection, *, now: float) -> tuple[FineTuningJob, ...]:
    """Running jobs whose worker fell silent: back to the queue, as often as it takes, or where the API had wanted them.

    Asked to pause → paused; asked to cancel (by version 0.1, which left that to the worker) → cancelled; else → queued.
    The caller writes the events, by the status of each returned job.
    """
    status = case(
        (jobs.c.cancel_requested, JobStatus.CANCELLED.value),
        (jobs.c.pause_requested, JobStatus.PAUSED.value),
        else_=JobStatus.QUEUED.value,
    )
    rows = conn.execute(
        update(jobs)
        .where(jobs.c.status == JobStatus.RUNNING, jobs.c.lease_expires_at < now)
        .values(
            status=status,
            finished_at=case((jobs.c.cancel_requested, int(now)), else_=None),
            paused_at=case((jobs.c.pause_requested & ~jobs.c.cancel_requested, int(now)), else_=None),
            pause_requested=False,
            estimated_finish=None,
            **NO_WORKER,
        )
        .returning(jobs)
    )
    return tuple(to_job(row) for row in rows)


def _failed(error: JobError, now: float) -> dict[str, Any]:
    return {
        "status": JobStatus.FAILED,
        "finished_at": int(now),
        "error": asdict(error),
        "estimated_finish": None,
        **NO_WORKER,
    }


def _held(job_id: str, worker_id: str, *statuses: JobStatus) -> ColumnElement[bool]:
    return (jobs.c.id == job_id) & (jobs.c.worker_id == worker_id) & jobs.c.status.in_(statuses)


def _finish(
    conn: Connection, job_id: str, worker_id: str, values: dict[str, Any], *sources: JobStatus
) -> FineTuningJob:
    row = update_row(conn, jobs, _held(job_id, worker_id, *sources), **values)
    if row is not None:
        return to_job(row)
    job = get_job(conn, job_id)
    raise InvalidTransition(
        say("error.job_not_held", job_id=job_id, status=say(f"state.{job.status}"), worker_id=worker_id)
    )
