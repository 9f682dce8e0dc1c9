"""Stored completions and responses as one list, and the training file that is made of them (OpenAI calls it
distillation). Each is deleted by the route of its own API."""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.responses import StreamingResponse

from tunery.api.access import FilesWriter, ModelsReader, check_scope
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.delivery import while_allowed
from tunery.api.files.schemas import FileObject
from tunery.api.metadata import METADATA_PARAMETER, metadata_filter
from tunery.api.paging import After, Limit
from tunery.api.routing import Router
from tunery.api.tunery.answers.schemas import (
    AnswerDetail,
    AnswerList,
    CountList,
    CountOut,
    DatasetCreate,
    DatasetOut,
    LeftOut,
    PreviewOut,
)
from tunery.api.tunery.answers.service import Names, chosen, find, page, write_rows
from tunery.api.tunery.datasets.reports import ReportCache, Steps, drain
from tunery.api.tunery.datasets.routes import Base, counted, find_base, keep_files, told, work_folder
from tunery.datasets.answers import Exchange
from tunery.datasets.report import Report
from tunery.datasets.validate import validation_steps
from tunery.domain.errors import InvalidRequest
from tunery.domain.tenants import Caller, Scope
from tunery.store import answers
from tunery.store.answers import Api, Wanted
from tunery.store.database import read
from tunery.texts import say

router = Router(prefix="/tunery/v1/stored_answers", tags=["Stored answers"])

Moment = Query(ge=0, le=10**11, description="Unix seconds; `until` is not included.")
Search = Annotated[str, Query(max_length=200, description="Text in a message or the answer, whatever its case.")]
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def _wanted(
    request: Request,
    api: Annotated[Api | None, Query(description="Those that went through this API.")] = None,
    model: Annotated[str | None, Query(max_length=256)] = None,
    since: Annotated[int | None, Moment] = None,
    until: Annotated[int | None, Moment] = None,
) -> Wanted:
    pairs = metadata_filter(request.query_params)
    return Wanted(api, model, since, until, pairs if isinstance(pairs, dict) else {})


WantedAnswers = Annotated[Wanted, Depends(_wanted)]


@router.get("", openapi_extra=METADATA_PARAMETER)
def list_answers(
    caller: ModelsReader,
    context: ContextDep,
    wanted: WantedAnswers,
    search: Search = "",
    after: After = None,
    limit: Limit = 20,
) -> AnswerList:
    """Newest first."""
    with read(context.database) as conn:
        found = page(conn, caller.project_id, wanted, search, after, limit)
        names = Names(context, conn, caller.project_id)
        data = [names.wire(each) for each in found.items]
    return AnswerList(data=data, has_more=found.next is not None, next=found.next, num_searched=found.num_searched)


@router.get("/counts", openapi_extra=METADATA_PARAMETER)
def count_answers(caller: ModelsReader, context: ContextDep, wanted: WantedAnswers) -> CountList:
    """How many of each model on each day."""
    with read(context.database) as conn:
        found = answers.count_answers(conn, caller.project_id, wanted)
    return CountList(data=[CountOut(model=one.model, day=one.day, num_answers=one.num_answers) for one in found])


@router.get("/{answer_id}")
def retrieve_answer(answer_id: str, caller: ModelsReader, context: ContextDep) -> AnswerDetail:
    """The whole conversation that was answered, as a chat."""
    with read(context.database) as conn:
        return Names(context, conn, caller.project_id).wire_whole(find(conn, caller.project_id, answer_id))


@router.post("/preview", response_model=PreviewOut, responses=STREAM)
@takes_up_to(MAX_PROMPT_BYTES)
def preview_dataset(body: DatasetCreate, caller: ModelsReader, context: ContextDep) -> StreamingResponse:
    """The report on the training file that these answers would make: `progress` events, then `report`. Stores
    nothing."""
    left_out: Counter[str] = Counter()

    def wire(report: Report) -> PreviewOut:
        about = {"file": body.filename, "model": body.base, "left_out": _wire_left_out(left_out)}
        return PreviewOut.model_validate({**about, **report.to_dict()})

    base = find_base(context, caller, body.base) if body.base else None
    num_bytes = _estimated_bytes(context, caller, body)
    steps = _preview(context, caller.project_id, body, base, left_out, num_bytes)
    steps = while_allowed(context, caller, Scope.MODELS_READ, steps)
    return StreamingResponse(told(steps, 2 * num_bytes, wire), media_type="text/event-stream")


def _preview(
    context: Context, project_id: str, body: DatasetCreate, base: Base | None, left_out: Counter[str], num_bytes: int
) -> Steps:
    """Twice over the bytes: to write the rows, and to examine them."""
    with context.shared(ReportCache).turn(num_bytes), work_folder(context) as folder:
        path = folder / "rows.jsonl"
        for written in write_rows(chosen(context, project_id, body), path, left_out):
            yield min(written, num_bytes)
        examined = validation_steps(path, **counted(base, "supervised"))
        while True:
            try:
                yield num_bytes + min(next(examined), num_bytes)
            except StopIteration as done:
                return done.value


@router.post("/dataset")
@takes_up_to(MAX_PROMPT_BYTES)
def create_dataset(body: DatasetCreate, caller: FilesWriter, context: ContextDep) -> DatasetOut:
    """A training file of these answers. Those that cannot be a row are left out and counted by their reason."""
    check_scope(caller, Scope.MODELS_READ)
    rows = chosen(context, caller.project_id, body)
    return keep_rows(context, caller, rows, body.filename, _estimated_bytes(context, caller, body))


def keep_rows(
    context: Context, caller: Caller, rows: Iterator[Exchange | str], filename: str, num_bytes: int
) -> DatasetOut:
    """As a new training file. `num_bytes`: about how much there is to read."""
    left_out: Counter[str] = Counter()
    with context.shared(ReportCache).turn(num_bytes), work_folder(context) as folder:
        path = folder / "rows.jsonl"
        num_rows = drain(while_allowed(context, caller, Scope.FILES_WRITE, write_rows(rows, path, left_out)))
        if not num_rows:
            raise InvalidRequest(say("error.no_rows"), code="no_rows")
        (file,) = keep_files(context, caller, [(filename, path)], "filename")
    return DatasetOut(file=FileObject.of(file), num_rows=num_rows, left_out=_wire_left_out(left_out))


def _estimated_bytes(context: Context, caller: Caller, body: DatasetCreate) -> int:
    """Of what is to be read: whether this must wait for its turn."""
    most = None if body.ids is None else len(body.ids)
    with read(context.database) as conn:
        return answers.estimated_bytes(conn, caller.project_id, body.wanted, most)


def _wire_left_out(left_out: Counter[str]) -> list[LeftOut]:
    return [LeftOut.model_validate({"reason": reason, "count": count}) for reason, count in left_out.most_common()]
