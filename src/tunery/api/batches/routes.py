"""Batches: create, look at, cancel. Their files are checked, and their requests answered, by the worker (`runner.py`),
so that what is wrong with a line is told by the batch and never by the request that creates it."""

from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy import Connection

from tunery.api.access import ModelsReader, ModelsUser
from tunery.api.body import Body
from tunery.api.context import Context, ContextDep
from tunery.api.leased import ENDPOINTS
from tunery.api.metadata import Metadata
from tunery.api.paging import After, CursorListing, Limit, Resource
from tunery.api.routing import Router
from tunery.api.uploads import ExpiresAfter
from tunery.domain.batches import OUTPUT_LIFETIME_S, UNFINISHED, WINDOW_S, Batch, BatchStatus
from tunery.domain.errors import InvalidRequest
from tunery.domain.files import FilePurpose
from tunery.domain.ids import new_id
from tunery.domain.tenants import Caller
from tunery.metering.budget import check_budget
from tunery.metering.limits import project_limits
from tunery.metering.storage import check_not_full
from tunery.store import batches, files, tenants
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(prefix="/v1/batches", tags=["Batches"])


class BatchCreate(Body):
    input_file_id: str = Field(min_length=1, max_length=256)
    endpoint: str = Field(max_length=256, description=f"One of {', '.join(ENDPOINTS)}.")
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchErrorOut(BaseModel):
    code: str
    message: str
    param: str | None = None
    line: int | None = Field(None, description="Of the input file, from 1.")
    texts: dict[str, Any] = Field({}, description="Beside OpenAI's fields: the message's `key` and `params`.")


class BatchErrors(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchErrorOut]


class RequestCounts(BaseModel):
    total: int
    completed: int
    failed: int


class InputDetails(BaseModel):
    cached_tokens: int


class OutputDetails(BaseModel):
    reasoning_tokens: int = 0


class BatchUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class BatchObject(Resource):
    object: Literal["batch"] = "batch"
    id: str
    endpoint: str
    model: str | None = Field(description="What answers; null until the file has been checked.")
    errors: BatchErrors | None = Field(description="What is wrong with the file, when the batch failed.")
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: BatchStatus
    output_file_id: str | None = Field(description="Null until the batch has ended, or when nothing was answered.")
    error_file_id: str | None = Field(description="Null until the batch has ended, or when nothing failed.")
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str]


def wire_batch(batch: Batch) -> BatchObject:
    unwritten = {"output_file_id": None, "error_file_id": None} if batch.status in UNFINISHED else {}
    values: dict[str, Any] = {
        **vars(batch),
        **unwritten,
        "metadata": batch.metadata or {},  # an object always: instructor's lists of batches take no null
        "errors": BatchErrors(data=[BatchErrorOut(**each) for each in batch.errors]) if batch.errors else None,
        "request_counts": RequestCounts(
            total=batch.num_requests, completed=batch.num_completed, failed=batch.num_failed
        ),
        "usage": BatchUsage(
            input_tokens=batch.input_tokens,
            input_tokens_details=InputDetails(cached_tokens=batch.cached_tokens),
            output_tokens=batch.output_tokens,
            total_tokens=batch.input_tokens + batch.output_tokens,
        ),
    }
    return BatchObject.model_validate(values)


@router.post("")
def create_batch(body: BatchCreate, caller: ModelsUser, context: ContextDep) -> BatchObject:
    if body.endpoint not in ENDPOINTS:
        supported = ", ".join(f"'{name}'" for name in ENDPOINTS)
        message = say("error.value_not_supported", value=repr(body.endpoint), supported=supported)
        raise InvalidRequest(message, param="endpoint", code="invalid_value")
    expires = body.output_expires_after
    now = context.now()
    batch = Batch(
        id=new_id("batch"),
        project_id=caller.project_id,
        created_at=now,
        status=BatchStatus.VALIDATING,
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        expires_at=now + WINDOW_S,
        api_key_id=caller.key_id,
        created_by=caller.user_id,
        output_lifetime_s=OUTPUT_LIFETIME_S if expires is None else expires.seconds,
        metadata=body.metadata,
    )
    with write(context.database) as conn:
        tenants.get_active_project(conn, caller.project_id)
        _check_file(conn, caller, body.input_file_id)
        _check_limits(conn, context, caller)
        batches.insert_batch(conn, batch)
        made = {"endpoint": batch.endpoint, "input_file_id": batch.input_file_id}
        record(conn, caller, "batch.created", now=now, resource_id=batch.id, made=made)
    return wire_batch(batch)


def _check_file(conn: Connection, caller: Caller, file_id: str) -> None:
    file = files.find_file(conn, file_id, caller.project_id)
    if file is None:
        message = say("error.batch_file_unknown", file_id=file_id, project_id=caller.project_id)
        raise InvalidRequest(message, param="file_id")
    if file.purpose is not FilePurpose.BATCH:
        message = say("error.batch_file_purpose", file_id=file_id, purpose=file.purpose.value)
        raise InvalidRequest(message, param="input_file_id")


def _check_limits(conn: Connection, context: Context, caller: Caller) -> None:
    now, own = context.clock(), project_limits(conn, context.settings, caller.project_id)
    check_not_full(conn, caller.project_id, own, now=now)
    check_budget(conn, caller.project_id, own, now=now)


@router.get("")
def list_batches(
    caller: ModelsReader, context: ContextDep, after: After = None, limit: Limit = 20
) -> CursorListing[BatchObject]:
    """Newest first."""
    with read(context.database) as conn:
        page = batches.list_batches(conn, caller.project_id, after=after, limit=limit)
    return CursorListing[BatchObject].of(page, wire_batch)


@router.get("/{batch_id}")
def retrieve_batch(batch_id: str, caller: ModelsReader, context: ContextDep) -> BatchObject:
    with read(context.database) as conn:
        return wire_batch(batches.get_batch(conn, batch_id, caller.project_id))


@router.post("/{batch_id}/cancel")
def cancel_batch(batch_id: str, caller: ModelsUser, context: ContextDep) -> BatchObject:
    """Requests that are being answered still are; what was answered is delivered, and paid for."""
    now = context.clock()
    with write(context.database) as conn:
        batch = batches.cancel_batch(conn, batch_id, caller.project_id, now)
        record(conn, caller, "batch.cancelled", now=now, resource_id=batch_id)
    return wire_batch(batch)
