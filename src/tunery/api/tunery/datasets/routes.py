"""Before a job: what a file holds, what is wrong with it, what a job on it will come to, and how to split it. The rules
are tunery.datasets'; here is whose files they are."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, TypeVar

from fastapi import Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import Connection

from tunery.api.access import FilesReader, FilesWriter, JobsReader
from tunery.api.context import Context, ContextDep
from tunery.api.delivery import while_allowed
from tunery.api.files.service import Received, as_file, keep, make_room, receive
from tunery.api.paging import After, Limit
from tunery.api.routing import Router
from tunery.api.tunery.datasets.reports import ReportCache, ReportKey, Running, Steps, drain
from tunery.api.tunery.datasets.schemas import (
    DEFAULT_SEED,
    EstimateCreate,
    EstimateOut,
    FileList,
    FileOut,
    ReportOut,
    RowList,
    RowOut,
    SamplesEstimate,
    SplitCreate,
    SplitOut,
    ValidationCreate,
)
from tunery.chat.render import Renderer, renderer_of
from tunery.datasets.estimate import estimate_on
from tunery.datasets.job_errors import first_job_error
from tunery.datasets.lines import read_chunks
from tunery.datasets.report import Report, Role, problem_dict
from tunery.datasets.rows import Row, read_rows
from tunery.datasets.split import split_file as split_content
from tunery.datasets.validate import validation_steps
from tunery.domain.errors import InvalidRequest, TuneryError
from tunery.domain.files import File, FilePurpose
from tunery.domain.jobs import MAX_SAMPLE_TOKENS, Method
from tunery.domain.tenants import Caller, Scope
from tunery.domain.usage import PICO, TokenUsage
from tunery.jobs.requests import JobRequest, check
from tunery.models.catalog import BaseLanguages, CatalogModel
from tunery.store import files as store
from tunery.store import models, versions
from tunery.store.database import read, write
from tunery.texts import say
from tunery.wire.stream import write_event

router = Router(prefix="/tunery/v1", tags=["Datasets"])

T = TypeVar("T")

Watched = Callable[[Generator[Any, None, Any]], Generator[Any, None, Any]]
"""The same steps, as long as whoever asked for them may."""

PROGRESS_EVERY_S = 0.5
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


@dataclass(frozen=True)
class Base:
    """What a model name comes to when it is trained on."""

    name: str  # of the model that was asked for, in full
    catalog: CatalogModel
    languages: BaseLanguages
    source: str  # the weights; a fine-tune goes on from those it was made on
    model_dir: Path
    renderer: Renderer


@router.post("/validations", response_model=ReportOut, responses=STREAM)
def create_validation(body: ValidationCreate, caller: FilesReader, context: ContextDep) -> Any:
    """Every problem of a file, what it comes to in tokens, and advice. Nothing is stored."""
    watched = partial(while_allowed, context, caller, Scope.FILES_READ)
    file, steps = _validation(context, caller, body, watched)
    steps = watched(steps)
    if body.stream:
        events = told(steps, file.bytes, lambda report: _wire_report(report, file, body.model))
        return StreamingResponse(events, media_type="text/event-stream")
    return _wire_report(drain(steps), file, body.model)


def _validation(context: Context, caller: Caller, request: ValidationCreate, watched: Watched) -> tuple[File, Steps]:
    """The file, and the steps of its validation. What can be refused is refused before the first step."""
    file = find_file(context, caller, request.file)
    base = find_base(context, caller, request.model) if request.model else None
    if request.validation_share is not None:
        _refuse_beside_share(request.training_file, "training_file")
        return file, _report_of_split(context, file, base, request.method, request.validation_share, watched)
    if request.training_file is None:
        return file, _report_steps(context, file, base, request.method, request.role)
    if request.role != "validation":
        raise InvalidRequest(say("error.training_file_without_role"), param="training_file")
    training = find_file(context, caller, request.training_file)
    return file, _report_steps(context, file, base, request.method, "validation", training)


@router.post("/estimates")
def create_estimate(body: EstimateCreate, caller: JobsReader, context: ContextDep) -> EstimateOut:
    """What the job that this body would create comes to. Creates nothing."""
    request, share = body.to_request(), body.validation_share
    method = check(request)
    file = find_file(context, caller, request.training_file)
    base = find_base(context, caller, request.model)
    watched = partial(while_allowed, context, caller, Scope.JOBS_READ)
    if share is None:
        steps = _report_steps(context, file, base, method, "training")
    else:
        _refuse_beside_share(request.validation_file, "validation_file")
        steps = _report_of_split(context, file, base, method, share, watched)
    report = drain(watched(steps))
    error = first_job_error(report, file.id)
    if error is not None:
        raise InvalidRequest(error.message, param=error.param, code=error.code)
    found = estimate_on(
        base.catalog,
        base.model_dir,
        report,
        request.hyperparameters,
        source=base.source,
        method=method,
        home=context.settings.home,
        training_price=context.prices.training_price(base.catalog.name, context.clock()),
        currency=context.prices.currency,
        has_validation=request.validation_file is not None or share is not None,
    )
    samples = _samples(context, base, request, found.hyperparameters.n_epochs)
    return EstimateOut(model=base.name, method=method, samples=samples, **found.to_dict())


def _samples(context: Context, base: Base, request: JobRequest, n_epochs: int) -> SamplesEstimate | None:
    prompts = request.sample_prompts
    if not prompts:
        return None
    usage = TokenUsage(
        input_tokens=n_epochs * sum(len(base.renderer.prompt_ids([*messages])) for messages in prompts),
        output_tokens=n_epochs * len(prompts) * MAX_SAMPLE_TOKENS,
    )
    cost = context.prices.tuned_price(base.catalog.name, context.clock()).cost(usage)
    return SamplesEstimate(
        num_answers=n_epochs * len(prompts),
        num_tokens=usage.input_tokens + usage.output_tokens,
        cost=cost.total / PICO,
    )


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
    with read(context.database) as conn:
        page = store.list_files(conn, caller.project_id, text=search, purpose=purpose, after=after, limit=limit)
        numbers = versions.numbers_of(conn, [file.id for file in page.items])
    data = [FileOut.of({**vars(file), "version": numbers.get(file.id, 1)}) for file in page.items]
    return FileList(data=data, has_more=page.has_more)


@router.get("/files/{file_id}/rows")
def list_rows(
    file_id: str,
    caller: FilesReader,
    context: ContextDep,
    model: Annotated[str, Query(max_length=256, description="Render and count as this model's base does.")] = "",
    search: Annotated[str, Query(max_length=200)] = "",
    lines: Annotated[str, Query(max_length=10_000, description="Only these, such as `3,17,29`.")] = "",
    problem: Annotated[str, Query(max_length=100, description="Only rows with a problem of this code.")] = "",
    after: Annotated[int, Query(ge=0, le=2**62, description="The last line that is known.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> RowList:
    """Examples in the order of the file, their trained text marked."""
    file = find_file(context, caller, file_id)
    base = find_base(context, caller, model) if model else None
    found = read_rows(
        while_allowed(context, caller, Scope.FILES_READ, context.blobs.get(file.blob)),
        base.renderer if base else None,
        base.catalog.max_example_tokens if base else None,
        after=after,
        search=search,
        only=_line_numbers(lines),
        problem=problem,
    )
    page = list(islice(found, limit + 1))
    return RowList(data=[_wire_row(row) for row in page[:limit]], has_more=len(page) > limit)


@router.post("/files/{file_id}/split")
def split_file(file_id: str, body: SplitCreate, caller: FilesWriter, context: ContextDep) -> SplitOut:
    """Hold back a validation file. Rows that are almost the same stay on one side."""
    file = find_file(context, caller, file_id)
    if file.purpose is not FilePurpose.FINE_TUNE:
        raise InvalidRequest(say("error.not_a_training_file", file_id=file_id, value=file.purpose.value), param="id")
    with work_folder(context) as folder:
        parts = folder / "train.jsonl", folder / "valid.jsonl"
        with context.shared(ReportCache).turn(file.bytes):
            share, seed = body.validation_share, body.seed
            watched = partial(while_allowed, context, caller, Scope.FILES_WRITE)
            done = split_content(lambda: watched(context.blobs.get(file.blob)), *parts, share=share, seed=seed)
        stem = Path(file.filename).stem
        named = [(f"{stem}-{part.name}", part) for part in parts]
        training, validation = keep_files(context, caller, named, "id", (file.sha256, *file.split_from))
    return SplitOut(
        training_file=training.id,
        validation_file=validation.id,
        num_training=done.num_training,
        num_validation=done.num_validation,
        num_groups=done.num_groups,
    )


def _line_numbers(text: str) -> frozenset[int] | None:
    """Raises InvalidRequest."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdecimal() and len(part) < 16 for part in parts):
        raise InvalidRequest(say("error.line_numbers"), param="lines")
    return frozenset(map(int, parts)) if parts else None


def find_file(context: Context, caller: Caller, file_id: str) -> File:
    with read(context.database) as conn:
        return store.get_file(conn, file_id, caller.project_id)


def find_base(context: Context, caller: Caller, name: str) -> Base:
    """Raises InvalidRequest when the model cannot be trained on, Unavailable while its weights are being fetched."""
    with read(context.database) as conn:
        own = models.find_model(conn, name, caller.project_id)
    catalog = context.catalog.find(own.base_model if own else name)
    if catalog is None or not catalog.training:
        raise InvalidRequest(say("error.model_not_trainable", name=name), code="model_not_available")
    source = own.source if own else catalog.source
    folder = context.weights_folder(source)
    return Base(
        own.name if own else catalog.name,
        catalog,
        context.catalog.languages_of(catalog),
        source,
        folder,
        renderer_of(folder, catalog.completes),
    )


def _report_steps(
    context: Context, file: File, base: Base | None, method: Method | None, role: Role, training: File | None = None
) -> Steps:
    against = (yield from _report_steps(context, training, base, method, "training")) if training else None

    def make() -> Steps:
        return validation_steps(_content(context, file), role=role, against=against, **counted(base, method))

    key = _key(file.id, base, method, role, training)
    return (yield from context.shared(ReportCache).steps(key, file.bytes, make))


def _report_of_split(
    context: Context, file: File, base: Base | None, method: Method | None, share: float, watched: Watched
) -> Steps:
    """On what `split` with this share would leave to train on. Stores nothing."""

    def make() -> Steps:
        with work_folder(context) as folder:
            parts = folder / "train.jsonl", folder / "valid.jsonl"
            split_content(lambda: watched(context.blobs.get(file.blob)), *parts, share=share, seed=DEFAULT_SEED)
            report = yield from validation_steps(parts[0], **counted(base, method))
            return report

    key = _key(f"{file.id} without {share}", base, method, "training")
    return context.shared(ReportCache).steps(key, file.bytes, make)


def counted(base: Base | None, method: Method | None) -> dict[str, Any]:
    limit, renderer = (base.catalog.max_example_tokens, base.renderer) if base else (None, None)
    languages = base.languages if base else None
    return {"method": method, "renderer": renderer, "max_example_tokens": limit, "languages": languages}


def _key(content: str, base: Base | None, method: Method | None, role: Role, training: File | None = None) -> ReportKey:
    return ReportKey(
        file_id=content,
        model_source=base.source if base else None,
        completes=base is not None and base.catalog.completes,
        max_example_tokens=base.catalog.max_example_tokens if base else None,
        method=method,
        role=role,
        against=training.id if training else None,
    )


def _refuse_beside_share(file_id: str | None, param: str) -> None:
    if file_id is not None:
        raise InvalidRequest(f"Give either 'validation_share' or '{param}'.", param=param)


@contextmanager
def work_folder(context: Context) -> Iterator[Path]:
    work = context.settings.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="data-", dir=work) as folder:
        yield Path(folder)


def _content(context: Context, file: File) -> Iterator[bytes] | Path:
    path = context.blobs.local_path(file.blob)
    return path if path is not None and path.exists() else context.blobs.get(file.blob)


def keep_files(
    context: Context,
    caller: Caller,
    parts: list[tuple[str, Path]],
    param: str,
    split_from: tuple[str, ...] = (),
    also: Callable[[Connection, File], None] | None = None,
) -> list[File]:
    """Training files of these names and contents: all or none. `param`: of the request, for errors. `also`: what
    belongs to each, in the same transaction."""
    received: list[Received] = []
    try:
        with make_room(context, caller, param, sum(path.stat().st_size for _, path in parts)) as room:
            for name, path in parts:
                received.append(receive(context, name, room.let_in(read_chunks(path))))
            made = [as_file(context, caller, part, FilePurpose.FINE_TUNE, None) for part in received]
            with write(context.database) as conn:
                room.settle(conn, sum(file.bytes for file in made))
                for file in made:
                    keep(conn, context, caller, replace(file, split_from=split_from))
                    if also is not None:
                        also(conn, file)
        return made
    except BaseException:
        for part in received:
            context.blobs.delete(part.blob)
        raise


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


def told(steps: Generator[int, None, T], total_bytes: int, wire: Callable[[T], BaseModel]) -> Iterator[bytes]:
    """A validation, or other steps that give a report, as events, their progress first. An error after the status line
    has gone out follows as an event, like everything else."""
    running = Running(steps)
    try:
        while not running.wait(PROGRESS_EVERY_S):
            yield write_event(
                {"num_bytes": min(running.num_bytes, total_bytes), "total_bytes": total_bytes}, "progress"
            )
        if running.report is not None:
            report = wire(running.report)
            yield write_event(report.model_dump_json(by_alias=True).encode(), "report")
        elif isinstance(running.error, TuneryError):
            yield write_event(running.error.body_with_text(), "error")
        elif running.error is not None:
            raise running.error
    finally:
        running.leave()
