"""What is exported, in which form, or taken in from elsewhere, and the process that does it: tensors need torch, and
its memory goes back at the end. Needs no torch itself.

The process writes into a folder that gets its name when all of it is written and proven: nothing half-written, and
nothing that answers otherwise than it does here, is ever found under that name.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Engine

from tunery import atomic
from tunery.domain.errors import InvalidRequest, NotFound, ServerFault, TuneryError
from tunery.domain.models import FineTunedModel
from tunery.domain.transfers import Format, NumberType
from tunery.models.adapter_config import UnsupportedAdapter
from tunery.models.catalog import Catalog
from tunery.models.sources import cache as sources
from tunery.models.sources.base import Progress
from tunery.settings import Settings
from tunery.store import files, jobs
from tunery.store.blobs import Blobs
from tunery.store.database import read
from tunery.texts import say

log = logging.getLogger(__name__)

NUM_ROWS = 8  # of the job's file, from which the proof takes its prompts
LOG_TAIL = 2000  # characters


@dataclass(frozen=True)
class ExportSpec:
    name: str  # of the model
    format: Format
    source: str  # of the base, as in the catalog
    base: str  # what the catalog calls the base's weights
    model_dir: Path
    adapter_dir: Path | None  # None: the base itself
    context_length: int
    completes: bool
    rows: Path | None  # the first rows of the file that the job was validated with, or trained on
    method: str  # of these rows
    type: NumberType = "f16"  # of the numbers in a GGUF file
    lora: bool = False  # of a GGUF file: the adapter alone, for llama.cpp to load beside the base


@dataclass(frozen=True)
class ImportSpec:
    files: dict[str, Path]  # by the names they were sent under
    source: str  # of the base, as in the catalog
    base: str  # what the catalog calls the base's weights
    model_dir: Path
    completes: bool
    template: str | None  # it was trained with: Jinja, BASE_TEMPLATE, or None, which is that of the files


BASE_TEMPLATE = "base"
Spec = ExportSpec | ImportSpec
_PATHS = ("model_dir", "adapter_dir", "rows")


def save_spec(spec: Spec, path: Path) -> None:
    path.write_text(json.dumps(asdict(spec), default=str), "utf-8")


def load_spec(path: Path) -> Spec:
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    values |= {name: Path(values[name]) for name in _PATHS if values.get(name)}
    if "files" not in values:
        return ExportSpec(**values)
    return ImportSpec(**{**values, "files": {name: Path(file) for name, file in values["files"].items()}})


Watch = Callable[["subprocess.Popen[str]"], None]
"""Told of the process when it runs, to end it."""


class ExportFailed(ServerFault):
    """The export, or the import, came to nothing; the message says why, and nothing was left behind."""


class Refused(ExportFailed):
    """What was asked for, or sent, cannot be used; the message says what to change."""


def gather(
    model: FineTunedModel,
    format: Format,
    folder: Path,
    *,
    engine: Engine,
    blobs: Blobs,
    catalog: Catalog,
    settings: Settings,
    progress: Progress,
    type: NumberType = "f16",
    lora: bool = False,
) -> ExportSpec:
    """Bring what the export needs into `folder`. Raises TuneryError when a part is gone."""
    check_form(format, lora)
    base = next((each for each in catalog if each.name == model.base_model), None)
    base = base or next((each for each in catalog if each.source == model.source), None)
    if base is None:
        raise NotFound(f"The catalog no longer has {model.base_model!r}, the base of {model.name!r}.", param="model")
    adapter = folder / "adapter"
    if not blobs.download_dir(model.blob, adapter):
        raise NotFound(f"The weights of {model.name!r} are missing from the blob store.", param="model")
    model_dir = sources.ensure(model.source, settings.models_dir, progress)
    if sources.is_changed(model_dir, model.base_sha256):
        raise InvalidRequest(say("error.base_changed", source=model.source, model=model.name), param="model")
    rows, method = _first_rows(model, folder / "rows.jsonl", engine, blobs)
    return ExportSpec(
        name=model.name,
        format=format,
        source=model.source,
        base=base.weights,
        model_dir=model_dir,
        adapter_dir=adapter,
        context_length=base.context_length,
        completes=base.completes,
        rows=rows,
        method=method,
        type=type,
        lora=lora,
    )


def check_form(format: Format, lora: bool) -> None:
    """Raises InvalidRequest."""
    if lora and format != "gguf":
        raise InvalidRequest(say("error.export_lora"), param="lora")


def _first_rows(model: FineTunedModel, to: Path, engine: Engine, blobs: Blobs) -> tuple[Path | None, str]:
    """Of the validation file, else of the training file; None when job and files are gone."""
    with read(engine) as conn:
        job = jobs.find_job(conn, model.job_id) if model.job_id else None
        named = (job.validation_file, job.training_file) if job else ()
        found = [file for name in named if name and (file := files.find_file(conn, name, model.project_id))]
    for file in found:
        try:
            lines = list(islice(_lines(blobs.get(file.blob)), NUM_ROWS))
        except NotFound:
            continue
        to.write_bytes(b"\n".join(lines))
        return to, job.method if job else "supervised"
    return None, "supervised"


def _lines(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """Those that are not blank."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest


def export_model(spec: ExportSpec, to: Path, progress: Progress, watch: Watch = lambda _: None) -> dict[str, Any]:
    """Write the model into the new folder `to`; the report of its proof. Raises InvalidRequest when the folder is there
    or somebody else writes it, ExportFailed when the disk is full or the export answers otherwise than the model."""
    to.parent.mkdir(parents=True, exist_ok=True)
    lock = to.with_name(f".{to.name}.lock")
    try:
        with FileLock(lock, timeout=0):
            try:
                if to.exists():
                    raise InvalidRequest(f"{to} is there already; choose another folder, or remove it.", param="to")
                with atomic.replacing_folder(to, part=to.with_name(f".{to.name}.part")) as part:
                    return run(spec, part, progress, watch)
            finally:
                lock.unlink(missing_ok=True)
    except Timeout as exc:
        raise InvalidRequest(f"Another export is being written to {to}.", param="to") from exc
    except OSError as exc:
        if atomic.is_disk_full(exc):
            raise ExportFailed(FULL) from exc
        raise


FULL = "There is no room on the disk for this export. Nothing was left behind; make room, or choose another disk."


def run(spec: Spec, target: Path, progress: Progress, watch: Watch = lambda _: None) -> dict[str, Any]:
    """Into the folder `target`, which is there; the report. The process says a JSON object a line: how far it is, at
    last how it ended. Raises ExportFailed."""
    with tempfile.TemporaryDirectory(prefix="export-") as folder, (Path(folder) / "log").open("w+") as errors:
        save_spec(spec, Path(folder) / "spec.json")
        command = [*exporter(), str(Path(folder) / "spec.json"), str(target)]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        )
        last: dict[str, Any] = {}
        with process:
            assert process.stdout is not None
            try:
                watch(process)
                for line in process.stdout:
                    last = json.loads(line)
                    if "doing" in last:
                        progress(last["doing"], last["done"], last["total"])
            finally:
                process.kill()
        if "report" in last:
            return last["report"]
        if "error" in last:
            failed = (Refused if last.get("refused") else ExportFailed)(last["error"])
            failed.text = last.get("text")
            raise failed
        errors.seek(0)
        log.error("an export died with status %s: %s", process.returncode, errors.read()[-LOG_TAIL:])
        what = "export" if isinstance(spec, ExportSpec) else "import"
        raise ExportFailed(f"The {what} ended unexpectedly (status {process.returncode}); the log says more.")


def exporter() -> list[str]:
    """The command, without its arguments. It ends with this process: one that goes on alone would write its report into
    the folder in which the export is begun anew."""
    return [sys.executable, "-m", "tunery.launch.tether", str(os.getpid()), "tunery.export"]


def is_refusal(exc: Exception) -> bool:
    """Whoever asked can change what is wrong."""
    return isinstance(exc, InvalidRequest | UnsupportedAdapter | Refused)


def explain(exc: Exception) -> str:
    """For whoever asked for the export; a fault that nobody foresaw goes to the log whole."""
    if atomic.is_disk_full(exc):
        return FULL
    if is_refusal(exc):
        return str(exc)
    if isinstance(exc, TuneryError):
        return exc.message
    if isinstance(exc, MemoryError):
        return "There is not enough memory for this export."
    log.error("an export failed", exc_info=exc)
    return f"The export failed: {type(exc).__name__}: {exc}"
