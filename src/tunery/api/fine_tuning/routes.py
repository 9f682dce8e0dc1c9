from typing import Annotated

from fastapi import Header, Request

from tunery.api.access import JobsReader, JobsWriter
from tunery.api.context import ContextDep
from tunery.api.fine_tuning import service
from tunery.api.fine_tuning.schemas import (
    CheckpointOut,
    Event,
    Job,
    JobCreate,
    wire_checkpoint,
    wire_event,
    wire_job,
)
from tunery.api.metadata import METADATA_PARAMETER, metadata_filter
from tunery.api.paging import After, CursorListing, Limit, Listing, cursor_listing
from tunery.api.routing import Router

router = Router(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"])

IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", max_length=200, description="A repeated create with it returns the first job."),
]


@router.post("")
def create_job(body: JobCreate, caller: JobsWriter, context: ContextDep, idempotency_key: IdempotencyKey = None) -> Job:
    job = service.create(context, caller, body.to_request(), idempotency_key)
    return wire_job(job, context.settings)


@router.get("", openapi_extra=METADATA_PARAMETER)
def list_jobs(
    request: Request,
    caller: JobsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
) -> Listing[Job]:
    wanted = metadata_filter(request.query_params)
    page = service.list_jobs(context, caller, after=after, limit=limit, metadata=wanted)
    return Listing[Job](data=[wire_job(job, context.settings) for job in page.items], has_more=page.has_more)


@router.get("/{job_id}")
def retrieve_job(job_id: str, caller: JobsReader, context: ContextDep) -> Job:
    return wire_job(service.get(context, caller, job_id), context.settings)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, caller: JobsWriter, context: ContextDep) -> Job:
    return wire_job(service.cancel(context, caller, job_id), context.settings)


@router.post("/{job_id}/pause")
def pause_job(job_id: str, caller: JobsWriter, context: ContextDep) -> Job:
    return wire_job(service.pause(context, caller, job_id), context.settings)


@router.post("/{job_id}/resume")
def resume_job(job_id: str, caller: JobsWriter, context: ContextDep) -> Job:
    return wire_job(service.resume(context, caller, job_id), context.settings)


@router.get("/{job_id}/events")
def list_events(
    job_id: str,
    caller: JobsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
) -> Listing[Event]:
    page = service.list_events(context, caller, job_id, after=after, limit=limit)
    return Listing[Event](data=[wire_event(event) for event in page.items], has_more=page.has_more)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str,
    caller: JobsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 10,
) -> CursorListing[CheckpointOut]:
    page = service.list_checkpoints(context, caller, job_id, after=after, limit=limit)
    return CursorListing[CheckpointOut](**cursor_listing([wire_checkpoint(item) for item in page.items], page.has_more))
