"""Tables become training files: looked at, then written. Reading them is `tunery.datasets.convert`'s, in a process with
bounds; the rules are those of `tunery data prepare`."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from tunery.api.access import FilesReader, FilesWriter
from tunery.api.body import Body, Texts
from tunery.api.context import Context, ContextDep
from tunery.api.delivery import while_allowed
from tunery.api.files.schemas import FileObject
from tunery.api.routing import Router
from tunery.api.tunery.datasets.reports import LARGE_BYTES, ReportCache, drain
from tunery.api.tunery.datasets.routes import find_file, keep_files, told, work_folder
from tunery.api.tunery.datasets.schemas import ProblemOut
from tunery.api.tunery.datasets.versions import keep_first
from tunery.datasets.convert import Request, converting
from tunery.datasets.prepare import Mapping
from tunery.domain.errors import InvalidRequest
from tunery.domain.files import File
from tunery.domain.numbers import Int
from tunery.domain.tenants import Caller, Scope
from tunery.texts import say

router = Router(prefix="/tunery/v1/tables", tags=["Tables"])

MAX_COLUMN = 1_000  # characters of a name
MAX_SYSTEM = 100_000
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
Steps = Generator[int, None, dict[str, Any]]


class Columns(Body):
    """Names of columns; an empty one stands for none."""

    user: str = Field("", max_length=MAX_COLUMN, description="Questions.")
    assistant: str = Field("", max_length=MAX_COLUMN, description="Answers; of pairs the better ones.")
    system: str = Field("", max_length=MAX_COLUMN, description="Instructions.")
    history: str = Field("", max_length=MAX_COLUMN, description="Earlier turns: messages, pairs or a transcript.")
    context: str = Field("", max_length=MAX_COLUMN, description="What follows the question.")
    rejected: str = Field("", max_length=MAX_COLUMN, description="Worse answers, which makes pairs for DPO.")


class TableRead(Body):
    file: str = Field(min_length=1, max_length=200, description="An uploaded file of any purpose.")
    encoding: str = Field("", max_length=40, description="Of text, such as cp932; empty: found out.")
    sheet: str = Field("", max_length=200, description="Of a workbook; empty: the first with a table.")
    header_row: Int = Field(0, ge=0, le=1_000, description="The row of the columns' names; 0: found out.")
    columns: Columns | None = Field(None, description="Null: guessed by names and contents.")
    system: str = Field("", max_length=MAX_SYSTEM, description="Instructions for every row that brings none.")
    stream: bool = Field(False, description="Answer with server-sent events: `progress` while it works, then `report`.")


class TablePreview(TableRead):
    limit: Int | None = Field(None, ge=1, le=10_000, description="Rows to look at; null: all.")


class TableSave(TableRead):
    filename: str = Field("", max_length=255, description="Of the training file; empty: by the table's.")


class NoteOut(BaseModel):
    message: str
    texts: Texts


class ColumnOut(BaseModel):
    name: str
    examples: list[str]


class TableRowOut(BaseModel):
    row: int = Field(description="1-based, the header not counted.")
    example: dict[str, Any] | None = Field(None, description="What it makes; null: nothing, it is left out.")
    problems: list[ProblemOut | NoteOut] = []
    cells: dict[str, str] | None = Field(None, description="Of a row that makes nothing.")


class TableOut(BaseModel):
    object: Literal["tunery.table"] = "tunery.table"
    file: str
    kind: Literal["csv", "tsv", "json", "jsonl", "parquet", "xlsx"]
    encoding: str = Field(description="By which text was read; empty for other kinds.")
    sheets: list[str]
    sheet: str
    header_row: int = Field(description="0: this kind has none, or none was found.")
    notes: list[NoteOut]
    columns: list[ColumnOut]
    mapping: Columns | None = Field(description="Null: which columns are meant cannot be told.")
    format: Literal["chat", "preference", "completion"] | None
    is_whole: bool = Field(description="Whether all rows were looked at.")
    num_rows: int = Field(description="That were looked at.")
    num_examples: int
    num_left_out: int
    num_errors: int = Field(description="Examples that a job would not accept.")
    rows: list[TableRowOut] = Field(description="The first ones.")
    problems: list[TableRowOut] = Field(description="The first rows behind them that are left out or have a problem.")


class TableFileOut(TableOut):
    created: FileObject = Field(description="The training file.")


@router.post("/preview", response_model=TableOut, responses=STREAM)
def preview_table(body: TablePreview, caller: FilesReader, context: ContextDep) -> Any:
    """The conversations that a table makes, and what is wrong with its rows. Nothing is stored."""
    file = find_file(context, caller, body.file)
    steps = while_allowed(context, caller, Scope.FILES_READ, _look(context, file, body))
    return _answer(body, steps, file, lambda made: TableOut.model_validate({**made, "file": file.id}))


def _look(context: Context, file: File, body: TablePreview) -> Steps:
    with _work(context, file) as (folder, path):
        return (yield from _convert(file, body, path, folder, most=body.limit))


@router.post("/dataset", response_model=TableFileOut, responses=STREAM)
def create_dataset(body: TableSave, caller: FilesWriter, context: ContextDep) -> Any:
    """A training file of a table. Rows without a question or an answer are left out."""
    file = find_file(context, caller, body.file)
    steps = while_allowed(context, caller, Scope.FILES_WRITE, _save(context, caller, file, body))
    return _answer(body, steps, file, TableFileOut.model_validate)


def _save(context: Context, caller: Caller, file: File, body: TableSave) -> Steps:
    name = body.filename.strip() or f"{Path(file.filename).stem}-chat.jsonl"
    with _work(context, file) as (folder, path):
        target = folder / "rows.jsonl"
        made = yield from _convert(file, body, path, folder, target=str(target))
        source = f"{file.filename} · {made['sheet']}" if made["sheet"] else file.filename
        first = partial(keep_first, caller, source)
        (created,) = keep_files(context, caller, [(name, target)], "filename", also=first)
    return {**made, "file": file.id, "created": FileObject.of(created)}


def _answer(body: TableRead, steps: Steps, file: File, wire: Callable[[dict[str, Any]], BaseModel]) -> Any:
    if body.stream:
        return StreamingResponse(told(steps, file.bytes, wire), media_type="text/event-stream")
    return wire(drain(steps))


@contextmanager
def _work(context: Context, file: File) -> Iterator[tuple[Path, Path]]:
    """A folder, and where the table lies on this machine. Every conversation takes a turn: a small file may unpack to
    a large one."""
    with context.shared(ReportCache).turn(max(file.bytes, LARGE_BYTES)), work_folder(context) as folder:
        path = context.blobs.local_path(file.blob)
        if path is None or not path.exists():
            path = folder / "table"
            with path.open("wb") as copy:
                copy.writelines(context.blobs.get(file.blob))
        yield folder, path


def _convert(file: File, body: TableRead, path: Path, folder: Path, **more: Any) -> Steps:
    request = Request(
        str(path.resolve()),
        file.filename,
        body.encoding.strip(),
        body.sheet,
        body.header_row,
        _mapping(body.columns),
        body.system,
        **more,
    )
    steps = converting(request)
    try:
        while True:
            yield int(next(steps) * file.bytes)
    except StopIteration as done:
        return done.value
    finally:
        steps.close()


def _mapping(columns: Columns | None) -> dict[str, str] | None:
    """Raises InvalidRequest for a question without an answer, or the other way round."""
    if columns is None:
        return None
    if bool(columns.user) != bool(columns.assistant) and not columns.rejected:
        raise InvalidRequest(say("table.one_of_two"), param="columns")
    return asdict(Mapping(**columns.model_dump()))
