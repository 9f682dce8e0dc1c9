"""`tunery models export`: a model's weights as files for other programs. On the server's own machine, whose server need
not run."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunery import private
from tunery.cli.models import ModelName, download_bar
from tunery.cli.output import Json, console, emit_json
from tunery.domain.errors import no_such_model
from tunery.settings import load_settings

if TYPE_CHECKING:
    from tunery.models.sources.base import Progress


class ExportFormat(StrEnum):
    ADAPTER = "adapter"
    MERGED = "merged"
    GGUF = "gguf"
    OLLAMA = "ollama"


class NumberType(StrEnum):
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"


def export(
    name: ModelName,
    to: Annotated[Path, typer.Option("--to", help="A folder that is not there yet.")],
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="adapter: for PEFT and vLLM, beside the base. merged: whole weights for transformers and vLLM. "
            "gguf: for llama.cpp and LM Studio. ollama: that with a Modelfile."
        ),
    ] = ExportFormat.MERGED,
    type: Annotated[
        NumberType, typer.Option(help="Of a GGUF file's numbers. q8_0 halves the file and rounds.")
    ] = NumberType.F16,
    as_json: Json = False,
) -> None:
    """Write a fine-tuned model into a folder for other programs, proven to answer there as it does here. Reads this
    machine's home; the server need not run."""
    with download_bar("Export") as report:
        done = _export(name, format, type, to, report)
    if as_json:
        return emit_json(done)
    proof = done["proof"]
    same = f"{proof['num_same_tokens']} of {proof['num_tokens']} tokens the same"
    same += f", loss {proof['loss_difference']:+.4f}"
    console.print(f"{to}  proven with {proof['program']}: {same}", soft_wrap=True)


def _export(name: str, format: ExportFormat, type: NumberType, to: Path, report: "Progress") -> dict:
    from tunery.export.spec import export_model, gather
    from tunery.models.catalog import Catalog
    from tunery.store import database, models
    from tunery.store.blobs import Blobs

    settings = load_settings()
    private.keep(settings.home)
    engine = database.open_database(settings)
    database.migrate(engine)
    with database.read(engine) as conn:
        model = models.find_any_model(conn, name)
    if model is None:
        raise no_such_model(name)
    with tempfile.TemporaryDirectory(prefix="tunery-export-") as folder:
        spec = gather(
            model,
            format.value,
            Path(folder),
            engine=engine,
            blobs=Blobs.open(settings),
            catalog=Catalog.load(settings.catalog),
            settings=settings,
            progress=report,
            type=type.value,
        )
        done = export_model(spec, to, report)
    engine.dispose()
    return done
