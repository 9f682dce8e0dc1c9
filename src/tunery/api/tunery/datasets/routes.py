from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import StreamingResponse

from tunery.api.access import FilesReader, FilesWriter, JobsReader
from tunery.api.context import ContextDep
from tunery.api.files.schemas import wire_file
from tunery.api.paging import After, Limit
from tunery.api.routing import Router
from tunery.api.tunery.datasets import service
from tunery.api.tunery.datasets.reports import Running, drain
from tunery.api.tunery.datasets.schemas import (
    EstimateCreate,
    EstimateOut,
    FileList,
    FileOut,
    ReportOut,
    RowList,
    RowOut,
    SplitCreate,
    SplitOut,
    ValidationCreate,
)
from tunery.datasets.report import Report, problem_dict
from tunery.datasets.rows import Row
from tunery.domain.errors import TuneryError
from tunery.domain.files import File
from tunery.wire.stream import write_event

router = Router(prefix="/tunery/v1", tags=["Datasets"])

PROGRESS_EVERY_S = 0.5
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@router.post("/validations", response_model=ReportOut, responses=STREAM)
def create_validation(body: ValidationCreate, caller: FilesReader, context: ContextDep) -> Any:
    """Every problem of a file, what it comes to in tokens, and advice. Nothing is stored."""
    file, steps = service.validation(context, caller, body)
    if body.stream:
        return StreamingResponse(_events(Running(steps), file, body.model), media_type="text/event-stream")
    return _wire_report(drain(steps), file, body.model)


@router.post("/estimates")
def create_estimate(body: EstimateCreate, caller: JobsReader, context: ContextDep) -> EstimateOut:
    """What the job that this body would create comes to. Creates nothing."""
    base, method, found = service.estimate_job(context, caller, body.to_request(), body.validation_share)
    return EstimateOut(model=base.name, method=method, **found.to_dict())


@router.get("/files")
def search_files(
    caller: FilesReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    purpose: Annotated[str | None, Query(max_length=100)] = None,
    search: Annotated[str, Query(max_length=200, description="Text in the name or the id, whatever its case.")] = "",
) -> FileList:
    """Files with their number of rows, newest first."""
    page = service.search_files(context, caller, text=search, purpose=purpose, after=after, limit=limit)
    found = [FileOut(**wire_file(file).model_dump(), sha256=file.sha256, num_rows=file.num_rows) for file in page.items]
    return FileList(data=found, has_more=page.has_more)


@router.get("/files/{file_id}/rows")
def list_rows(
    file_id: str,
    caller: FilesReader,
    context: ContextDep,
    model: Annotated[str, Query(max_length=256, description="Render and count as this model's base does.")] = "",
    search: Annotated[str, Query(max_length=200)] = "",
    after: Annotated[int, Query(ge=0, le=2**62, description="The last line that is known.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> RowList:
    """Examples in the order of the file, their trained text marked."""
    page, has_more = service.rows(
        context, caller, file_id, model=model or None, search=search, after=after, limit=limit
    )
    return RowList(data=[_wire_row(row) for row in page], has_more=has_more)


@router.post("/files/{file_id}/split")
def split_file(file_id: str, body: SplitCreate, caller: FilesWriter, context: ContextDep) -> SplitOut:
    """Hold back a validation file. Rows that are almost the same stay on one side."""
    training, validation, done = service.split(context, caller, file_id, share=body.validation_share, seed=body.seed)
    return SplitOut(
        training_file=training.id,
        validation_file=validation.id,
        num_training=done.num_training,
        num_validation=done.num_validation,
        num_groups=done.num_groups,
    )


def _wire_report(report: Report, file: File, model: str | None) -> ReportOut:
    return ReportOut.model_validate({"file": file.id, "model": model, **report.to_dict()})


def _wire_row(row: Row) -> RowOut:
    return RowOut.model_validate(
        {
            "line": row.line,
            "example": row.example,
            "text": row.text,
            "problems": [problem_dict(problem) for problem in row.problems],
            "num_tokens": row.num_tokens,
            "num_trained_tokens": row.num_trained_tokens,
            "segments": [{"kind": part.kind, "text": part.text} for part in row.segments],
        }
    )


def _events(running: Running, file: File, model: str | None) -> Iterator[bytes]:
    """An error after the status line has gone out follows as an event, like everything else."""
    try:
        while not running.wait(PROGRESS_EVERY_S):
            yield write_event({"num_bytes": running.num_bytes, "total_bytes": file.bytes}, "progress")
        if running.report is not None:
            report = _wire_report(running.report, file, model)
            yield write_event(report.model_dump_json(by_alias=True).encode(), "report")
        elif isinstance(running.error, TuneryError):
            yield write_event(running.error.body_with_text(), "error")
        elif running.error is not None:
            raise running.error
    finally:
        running.leave()
