"""Jobs as their project sees them. What a verb means is decided in tunery.jobs."""

from tunery.api.context import Context
from tunery.domain.jobs import Checkpoint, FineTuningJob, JobEvent, JobStatus
from tunery.domain.tenants import Caller
from tunery.jobs import verbs
from tunery.jobs.requests import JobRequest
from tunery.store import events
from tunery.store import jobs as store
from tunery.store.database import read, write
from tunery.store.paging import Page


def create(context: Context, caller: Caller, request: JobRequest, idempotency_key: str | None) -> FineTuningJob:
    with write(context.database) as conn:
        return verbs.create_job(
            conn,
            request,
            caller=caller,
            catalog=context.catalog,
            settings=context.settings,
            clock=context.clock,
            idempotency_key=idempotency_key,
        )


def get(context: Context, caller: Caller, job_id: str) -> FineTuningJob:
    with read(context.database) as conn:
        return store.get_job(conn, job_id, caller.project_id)


def list_jobs(
    context: Context, caller: Caller, *, after: str | None, limit: int, metadata: dict[str, str] | str | None
) -> Page[FineTuningJob]:
    with read(context.database) as conn:
        return store.list_jobs(conn, caller.project_id, after=after, limit=limit, metadata=metadata)


def cancel(context: Context, caller: Caller, job_id: str) -> FineTuningJob:
    with write(context.database) as conn:
        return verbs.cancel_job(conn, job_id, project_id=caller.project_id, by=caller.user_id, clock=context.clock)


def pause(context: Context, caller: Caller, job_id: str) -> FineTuningJob:
    with write(context.database) as conn:
        return verbs.pause_job(conn, job_id, project_id=caller.project_id, clock=context.clock)


def resume(context: Context, caller: Caller, job_id: str) -> FineTuningJob:
    with write(context.database) as conn:
        return verbs.resume_job(conn, job_id, project_id=caller.project_id, clock=context.clock)


def list_events(context: Context, caller: Caller, job_id: str, *, after: str | None, limit: int) -> Page[JobEvent]:
    """Newest first. Raises NotFound for another project's job, so that its events stay its own."""
    with read(context.database) as conn:
        store.get_job(conn, job_id, caller.project_id)
        return events.list_events(conn, job_id, after=after, limit=limit)


def list_checkpoints(
    context: Context, caller: Caller, job_id: str, *, after: str | None, limit: int
) -> Page[Checkpoint]:
    """Highest step first. Empty until the job has ended, however, or is paused: only then is it sure which ones are
    kept."""
    with read(context.database) as conn:
        job = store.get_job(conn, job_id, caller.project_id)
        if not (job.is_terminal or job.status is JobStatus.PAUSED):
            return Page()
        return events.list_checkpoints(conn, job_id, after=after, limit=limit)
