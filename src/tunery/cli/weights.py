"""`tunery models export`: a model's weights as files for other programs, on the server's own machine, whose server need
not run. `tunery models import`: an adapter that was trained elsewhere, through a server."""

import tarfile
import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunery import private
from tunery.cli.connection import CommandFailed, client_of, get_own, post_own
from tunery.cli.models import ModelName, download_bar
from tunery.cli.output import Json, console, doing, emit_json, notes
from tunery.domain.errors import no_such_model
from tunery.domain.files import MAX_FILE_BYTES
from tunery.settings import load_settings

if TYPE_CHECKING:
    from openai import OpenAI

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
    Q4_K_M = "q4_k_m"


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
        NumberType, typer.Option(help="Of a GGUF file's numbers. q8_0 halves the file and rounds, q4_k_m rounds more.")
    ] = NumberType.F16,
    lora: Annotated[
        bool, typer.Option("--lora", help="With gguf: the adapter alone, for llama.cpp to load beside the base.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a fine-tuned model into a folder for other programs, proven to answer there as it does here. Reads this
    machine's home; the server need not run."""
    with download_bar("Export") as report:
        done = _export(name, format, type, lora, to, report)
    if as_json:
        return emit_json(done)
    proof = done["proof"]
    same = f"{proof['num_same_tokens']} of {proof['num_tokens']} tokens the same"
    same += f", loss {proof['loss_difference']:+.4f}"
    console.print(f"{to}  proven with {proof['program']}: {same}", soft_wrap=True)


def _export(name: str, format: ExportFormat, type: NumberType, lora: bool, to: Path, report: "Progress") -> dict:
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
            catalog=Catalog.of(settings),
            settings=settings,
            progress=report,
            type=type.value,
            lora=lora,
        )
        done = export_model(spec, to, report)
    engine.dispose()
    return done


# ---- import

POLL_S = 0.5
LIFETIME_S = 3600  # of what is uploaded, in case it cannot be deleted
BASE_TEMPLATE = "base"
# What is read of a folder; optimizer states and checkpoints stay where they are.
WANTED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",  # so that it is refused by its name
    "chat_template.jinja",
    "tokenizer_config.json",
    "export.json",
)


def import_(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="The folder that PEFT, TRL, LLaMA-Factory or Unsloth wrote, a tar of it, or a LoRA as GGUF.",
        ),
    ],
    base: Annotated[str, typer.Option(help="The base model that the adapter was trained on.")],
    suffix: Annotated[str | None, typer.Option(help="Stands in the model's name.")] = None,
    template: Annotated[
        str | None,
        typer.Option(help="The chat template it was trained with: a file, or `base`. By default the folder's."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a model of an adapter that was trained elsewhere, and print its name."""
    client = client_of(ctx)
    if template not in (None, BASE_TEMPLATE):
        template = Path(template).read_text("utf-8")
    elif template is None and notes.is_terminal and not _has_template(path):
        if not typer.confirm("Was it trained with the base's own chat template?", err=True):
            raise CommandFailed("Give the template that it was trained with: --template FILE.")
        template = BASE_TEMPLATE
    body = {"base": base, "suffix": suffix, "chat_template": template}
    done = _import(client, path, body)
    if done["status"] != "succeeded":
        raise CommandFailed(done["error"]["message"] if done["error"] else "The import was cancelled.")
    if as_json:
        return emit_json(done)
    for warning in done["warnings"]:
        notes.print(warning, soft_wrap=True)
    console.print(done["model"], soft_wrap=True)


def _has_template(path: Path) -> bool:
    """Of an archive it is not known before it is unpacked."""
    if not path.is_dir():
        return path.suffix != ".gguf"
    config = path / "tokenizer_config.json"
    return (path / "chat_template.jinja").exists() or (config.exists() and "chat_template" in config.read_text("utf-8"))


def _import(client: "OpenAI", path: Path, body: dict) -> dict:
    """The import when it has ended; what was uploaded for it is deleted. Ctrl-C cancels it."""
    with doing() as tell, tempfile.TemporaryDirectory(prefix="tunery-import-") as folder:
        sent = _packed(path, Path(folder) / "adapter.tar") if path.is_dir() else path
        tell("Uploading", path.name)
        file_id = _upload(client, sent)
        try:
            made = post_own(client, "/imports", {"files": [file_id], **body})
            tell("Checking", path.name)
            try:
                while made["status"] in ("queued", "running"):
                    time.sleep(POLL_S)
                    made = get_own(client, f"/imports/{made['id']}")
            except KeyboardInterrupt:
                post_own(client, f"/imports/{made['id']}/cancel", {})
                raise
        finally:
            client.files.delete(file_id)
    return made


def _upload(client: "OpenAI", path: Path) -> str:
    if path.stat().st_size > MAX_FILE_BYTES:
        done = client.uploads.upload_file_chunked(file=path, mime_type="application/x-tar", purpose="user_data")
        assert done.file is not None
        return done.file.id
    expires: Any = {"anchor": "created_at", "seconds": LIFETIME_S}
    return client.files.create(file=path, purpose="user_data", expires_after=expires).id


def _packed(folder: Path, to: Path) -> Path:
    """The files that are wanted; of links what they point at, as in a cache of Hugging Face's."""
    with tarfile.open(to, "w", dereference=True) as archive:
        for file in sorted(folder.iterdir()):
            if file.name in WANTED or file.suffix == ".gguf":
                archive.add(file, file.name, recursive=False)
    return to
