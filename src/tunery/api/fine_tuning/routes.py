"""Jobs as their project sees them. What a verb means is decided in tunery.jobs."""

from typing import Annotated

from fastapi import Header, Request
from sqlalchemy import Connection

from tunery.api.access import JobsReader, JobsWriter, check_scope
from tunery.api.context import Context, ContextDep
from tunery.api.fine_tuning.schemas import CheckpointOut, Event, Job, JobCreate, wire_event, wire_job
from tunery.api.metadata import METADATA_PARAMETER, metadata_filter
from tunery.api.paging import After, CursorListing, Limit, Listing
from tunery.api.routing import Router
from tunery.domain.audit import EventType
from tunery.domain.jobs import RUN_EVAL, Checkpoint, FineTuningJob, JobStatus
from tunery.domain.tenants import Caller, Scope
from tunery.jobs import verbs
from tunery.store import events
from tunery.store import jobs as store
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.store.paging import Page

router = Router(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"])

SCOPES_OF_EVALUATION = (Scope.EVALS_WRITE, Scope.FILES_READ, Scope.MODELS_REQUEST)

IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", max_length=200, description="A repeated create with it returns the first job."),
]


@router.post("")
def create_job(body: JobCreate, caller: JobsWriter, context: ContextDep, idempotency_key: IdempotencyKey = None) -> Job:
    request = body.to_request()
    for scope in SCOPES_OF_EVALUATION if RUN_EVAL in (request.metadata or {}) else ():
        check_scope(caller, scope)
    with write(context.database) as conn:
        job = verbs.create_job(
            conn,
            request,
            caller=caller,
            catalog=context.catalog,
            settings=context.settings,
            clock=context.clock,
            idempotency_key=idempotency_key,
        )
        _record(conn, context, caller, "fine_tuning.job.created", job)
    return wire_job(job, context.settings)


def _record(conn: Connection, context: Context, caller: Caller, event: EventType, job: FineTuningJob) -> None:
    made = {"model": job.model, "training_file": job.training_file}
    record(conn, caller, event, now=context.clock(), resource_id=job.id, made=made)


@router.get("", openapi_extra=METADATA_PARAMETER)
def list_jobs(
    request: Request,
    caller: JobsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
) -> Listing[Job]:
    wanted = metadata_filter(request.query_params)
    with read(context.database) as conn:
        page = store.list_jobs(conn, caller.project_id, after=after, limit=limit, metadata=wanted)
    return Listing[Job](data=[wire_job(job, context.settings) for job in page.items], has_more=page.has_more)


@router.get("/{job_id}")
def retrieve_job(job_id: str, caller: JobsReader, context: ContextDep) -> Job:
    with read(context.database) as conn:
        return wire_job(store.get_job(conn, job_id, caller.project_id), context.settings)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, caller: JobsWriter, context: ContextDep) -> Job:
    with write(context.database) as conn:
        job = verbs.cancel_job(conn, job_id, project_id=caller.project_id, by=caller.user_id, clock=context.clock)
        _record(conn, context, caller, "fine_tuning.job.cancelled", job)
    return wire_job(job, context.settings)


@router.post("/{job_id}/pause")
def pause_job(job_id: str, caller: JobsWriter, context: ContextDep) -> Job:
    with write(context.database) as conn:
        job = verbs.pause_job(conn, job_id, project_id=caller.project_id, clock=context.clock)
        _record(conn, context, caller, "fine_tuning.job.paused", job)
    return wire_job(job, context.settings)


@router.post("/{job_id}/resume")
def resume_job(job_id: str, caller: JobsWriter, context: ContextDep) -> Job:
    with write(context.database) as conn:
        job = verbs.resume_job(conn, job_id, project_id=caller.project_id, clock=context.clock)
        _record(conn, context, caller, "fine_tuning.job.resumed", job)
    return wire_job(job, context.settings)


@router.get("/{job_id}/events")
def list_events(
    job_id: str,
    caller: JobsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
) -> Listing[Event]:
    with read(context.database) as conn:
        store.get_job(conn, job_id, caller.project_id)
        page = events.list_events(conn, job_id, after=after, limit=limit)
    return Listing[Event](data=[wire_event(event) for event in page.items], has_more=page.has_more)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str,
    caller: JobsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 10,
) -> CursorListing[CheckpointOut]:
    with read(context.database) as conn:
        job = store.get_job(conn, job_id, caller.project_id)
        page = kept_checkpoints(conn, job, after=after, limit=limit)
    return CursorListing[CheckpointOut].of(page, CheckpointOut.of)


def kept_checkpoints(conn: Connection, job: FineTuningJob, *, after: str | None = None, limit: int) -> Page[Checkpoint]:
    """Highest step first. Empty until the job has ended, however, or is paused: only then is it sure which ones are
    kept."""
    if not (job.is_terminal or job.status is JobStatus.PAUSED):
        return Page()
    return events.list_checkpoints(conn, job.id, after=after, limit=limit)
