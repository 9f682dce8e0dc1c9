"""Reports, estimates, rows and splits of a project's files. The rules are tunery.datasets'; here is whose they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from tunery.api.context import Context
from tunery.api.files.service import Received, as_file, blob_path, make_room, receive
from tunery.api.tunery.datasets.reports import ReportCache, ReportKey, Steps, drain
from tunery.api.tunery.datasets.schemas import DEFAULT_SEED, ValidationCreate
from tunery.chat.render import Renderer
from tunery.datasets.advise import no_validation_file
from tunery.datasets.estimate import Estimate, estimate
from tunery.datasets.job_errors import first_job_error
from tunery.datasets.lines import read_chunks
from tunery.datasets.rows import Row, read_rows
from tunery.datasets.speed import speed_of
from tunery.datasets.split import Split, split_file
from tunery.datasets.validate import validation_steps
from tunery.domain.errors import InvalidRequest
from tunery.domain.files import File, FilePurpose
from tunery.domain.hyperparameters import resolve
from tunery.domain.jobs import Method
from tunery.domain.tenants import Caller
from tunery.engines.http import unavailable
from tunery.jobs.requests import JobRequest, check
from tunery.models.catalog import CatalogModel
from tunery.models.config import read_sizes
from tunery.models.sources.cache import cached
from tunery.store import files as store
from tunery.store import models, tenants
from tunery.store.database import read, write
from tunery.store.paging import Page
from tunery.texts import say


@dataclass(frozen=True)
class Base:
    """What a model name comes to when it is trained on."""

    name: str  # of the model that was asked for, in full
    catalog: CatalogModel
    source: str  # the weights; a fine-tune goes on from those it was made on
    model_dir: Path
    renderer: Renderer


def validation(context: Context, caller: Caller, request: ValidationCreate) -> tuple[File, Steps]:
    """The file, and the steps of its validation. What can be refused is refused before the first step."""
    file = find_file(context, caller, request.file)
    base = find_base(context, caller, request.model) if request.model else None
    if request.validation_share is not None:
        _refuse_beside_share(request.training_file, "training_file")
        return file, _report_of_split(context, file, base, request.method, request.validation_share)
    if request.training_file is None:
        return file, _report_steps(context, file, base, request.method, request.role)
    if request.role != "validation":
        raise InvalidRequest(say("error.training_file_without_role"), param="training_file")
    training = find_file(context, caller, request.training_file)
    return file, _against(context, file, training, base, request.method)


def estimate_job(
    context: Context, caller: Caller, request: JobRequest, share: float | None = None
) -> tuple[Base, Method, Estimate]:
    """What the job would come to. Creates nothing. Raises what creating it, or checking its file, would bring up."""
    method = check(request)
    file = find_file(context, caller, request.training_file)
    base = find_base(context, caller, request.model)
    if share is None:
        report = drain(_report_steps(context, file, base, method, "training"))
    else:
        _refuse_beside_share(request.validation_file, "validation_file")
        report = drain(_report_of_split(context, file, base, method, share))
    error = first_job_error(report, file.id)
    if error is not None:
        raise InvalidRequest(error.message, param=error.param, code=error.code)
    chosen = resolve(
        request.hyperparameters,
        num_examples=report.num_examples,
        default_multiplier=base.catalog.default_multiplier,
    )
    found = estimate(
        report,
        chosen,
        method=method,
        sizes=read_sizes(base.model_dir),
        speed=speed_of(context.settings.home, base.source, method),
        lora_rank=base.catalog.lora_rank,
        training_price=context.prices.training_price(base.catalog.name, context.clock()),
        currency=context.prices.currency,
    )
    if request.validation_file is None and share is None:
        found.advice.append(no_validation_file(report.num_examples))
    return base, method, found


def rows(
    context: Context, caller: Caller, file_id: str, *, model: str | None, search: str, after: int, limit: int
) -> tuple[list[Row], bool]:
    """Rows behind line `after`, and whether there are more."""
    file = find_file(context, caller, file_id)
    base = find_base(context, caller, model) if model else None
    found = read_rows(
        context.blobs.get(file.blob),
        base.renderer if base else None,
        base.catalog.max_example_tokens if base else None,
        after=after,
        search=search,
    )
    page = list(islice(found, limit + 1))
    return page[:limit], len(page) > limit


def split(context: Context, caller: Caller, file_id: str, *, share: float, seed: int) -> tuple[File, File, Split]:
    """Two new files of the project, `…-train.jsonl` and `…-valid.jsonl`."""
    file = find_file(context, caller, file_id)
    if file.purpose is not FilePurpose.FINE_TUNE:
        raise InvalidRequest(say("error.not_a_training_file", file_id=file_id, value=file.purpose.value), param="id")
    with _split_folder(context) as folder:
        parts = folder / "train.jsonl", folder / "valid.jsonl"
        with context.shared(ReportCache).turn(file.bytes):
            done = split_file(lambda: context.blobs.get(file.blob), *parts, share=share, seed=seed)
        stem = Path(file.filename).stem
        made = _store(context, caller, [(f"{stem}-{part.name}", part) for part in parts])
    return made[0], made[1], done


def search_files(
    context: Context, caller: Caller, *, text: str, purpose: str | None, after: str | None, limit: int
) -> Page[File]:
    with read(context.database) as conn:
        return store.list_files(conn, caller.project_id, text=text, purpose=purpose, after=after, limit=limit)


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
    folder = cached(source, context.settings.models_dir)
    if folder is None:
        raise unavailable(say("error.base_being_fetched"))
    return Base(own.name if own else catalog.name, catalog, source, folder, _renderer(folder, catalog.completes))


@lru_cache(maxsize=4)
def _renderer(folder: Path, completes: bool) -> Renderer:
    return Renderer.from_dir(folder, completes=completes)


def _report_steps(
    context: Context, file: File, base: Base | None, method: Method | None, role: str, training: File | None = None
) -> Steps:
    limit = base.catalog.max_example_tokens if base else None
    key = ReportKey(
        file_id=file.id,
        model_source=base.source if base else None,
        completes=base is not None and base.catalog.completes,
        max_example_tokens=limit,
        method=method,
        role=role,
        against=training.id if training else None,
    )
    against = drain(_report_steps(context, training, base, method, "training")) if training else None

    def make() -> Steps:
        return validation_steps(
            _content(context, file),
            method=method,
            renderer=base.renderer if base else None,
            max_example_tokens=limit,
            role="validation" if role == "validation" else "training",
            against=against,
        )

    return context.shared(ReportCache).steps(key, file.bytes, make)


def _report_of_split(context: Context, file: File, base: Base | None, method: Method | None, share: float) -> Steps:
    """On what `split` with this share would leave to train on. Stores nothing."""
    limit = base.catalog.max_example_tokens if base else None
    key = ReportKey(
        file_id=f"{file.id} without {share}",
        model_source=base.source if base else None,
        completes=base is not None and base.catalog.completes,
        max_example_tokens=limit,
        method=method,
        role="training",
        against=None,
    )

    def make() -> Steps:
        with _split_folder(context) as folder:
            parts = folder / "train.jsonl", folder / "valid.jsonl"
            split_file(lambda: context.blobs.get(file.blob), *parts, share=share, seed=DEFAULT_SEED)
            report = yield from validation_steps(
                parts[0], method=method, renderer=base.renderer if base else None, max_example_tokens=limit
            )
            return report

    return context.shared(ReportCache).steps(key, file.bytes, make)


def _refuse_beside_share(file_id: str | None, param: str) -> None:
    if file_id is not None:
        raise InvalidRequest(f"Give either 'validation_share' or '{param}'.", param=param)


@contextmanager
def _split_folder(context: Context) -> Iterator[Path]:
    work = context.settings.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="split-", dir=work) as folder:
        yield Path(folder)


def _against(context: Context, file: File, training: File, base: Base | None, method: Method | None) -> Steps:
    report = yield from _report_steps(context, file, base, method, "validation", training)
    return report


def _content(context: Context, file: File) -> Iterator[bytes] | Path:
    path = context.blobs.local_path(file.blob)
    return path if path is not None and path.exists() else context.blobs.get(file.blob)


def _store(context: Context, caller: Caller, parts: list[tuple[str, Path]]) -> list[File]:
    """Both files or none."""
    received: list[Received] = []
    try:
        with make_room(context, caller, "id", sum(path.stat().st_size for _, path in parts)) as room:
            for name, path in parts:
                received.append(receive(context, name, room.let_in(read_chunks(path))))
            made = [as_file(context, caller, part, FilePurpose.FINE_TUNE, None) for part in received]
            with write(context.database) as conn:
                room.settle(conn, sum(file.bytes for file in made))
                tenants.get_active_project(conn, caller.project_id)
                for file in made:
                    store.insert_file(conn, file)
        return made
    except BaseException:
        for part in received:
            context.blobs.delete(blob_path(part.file_id))
        raise
