"""Exports of models and imports of adapters: asked for and looked at. The worker does them (`runner.py`)."""

from typing import Any, Literal

from fastapi import Query
from pydantic import BaseModel, Field
from sqlalchemy import Connection

from tunery.api.access import ModelsReader, ModelsWriter, check_scope
from tunery.api.body import Body, Texts, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.paging import After, CursorListing, Limit, Resource
from tunery.api.routing import Router
from tunery.api.tunery.transfers.runner import remove_rest
from tunery.domain.audit import EventType
from tunery.domain.errors import InvalidRequest, RateLimited
from tunery.domain.ids import new_id
from tunery.domain.names import check_suffix
from tunery.domain.tenants import Caller, Scope
from tunery.domain.transfers import MAX_UNFINISHED, Format, NumberType, Transfer, TransferKind, TransferStatus
from tunery.export.spec import check_form
from tunery.metering.limits import project_limits
from tunery.metering.storage import check_not_full
from tunery.store import files, models, tenants, transfers
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(prefix="/tunery/v1", tags=["Models"])

MAX_FILES = 16
MAX_TEMPLATE = 512 * 1024  # characters; bodies are bounded to twice that


class ExportCreate(Body):
    format: Format = Field(
        description="adapter: for PEFT and vLLM, beside the base. merged: whole weights for transformers and vLLM. "
        "gguf: for llama.cpp and LM Studio. ollama: that with a Modelfile."
    )
    type: NumberType = Field("f16", description="Of a GGUF file's numbers.")
    lora: bool = Field(False, description="With gguf: the adapter alone, for llama.cpp to load beside the base.")


class ImportCreate(Body):
    files: list[str] = Field(
        min_length=1,
        max_length=MAX_FILES,
        description="Uploaded files: a folder of PEFT, TRL, LLaMA-Factory or Unsloth as a tar or file by file, or a "
        "LoRA as GGUF.",
    )
    base: str = Field(min_length=1, max_length=256, description="The base model that the adapter was trained on.")
    suffix: str | None = Field(None, description="Stands in the model's name.")
    chat_template: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_TEMPLATE,
        description="It was trained with: its text, or 'base' for the base's own. By default that of the files.",
    )


class TransferProgress(BaseModel):
    doing: str
    done: int
    total: int | None


class TransferError(BaseModel):
    code: str
    message: str
    texts: Texts = {}


class TransferOut(Resource):
    id: str
    status: TransferStatus
    created_at: int
    finished_at: int | None
    progress: TransferProgress | None
    error: TransferError | None


class ExportOut(TransferOut):
    object: Literal["tunery.model_export"] = "tunery.model_export"
    model: str
    format: Format
    type: NumberType
    lora: bool = False
    file_id: str | None = Field(description="A tar with the export, once it has succeeded.")
    proof: dict[str, Any] | None = Field(description="How the export answered in the program it is for.")


class ImportOut(TransferOut):
    object: Literal["tunery.model_import"] = "tunery.model_import"
    files: list[str]
    base: str
    suffix: str | None
    model: str | None = Field(description="The model's name, once the import has succeeded.")
    warnings: list[str] = Field(description="In what the model may answer otherwise than where it was trained.")
    texts: Texts = Field({}, description="Of each warning its `key` and `params`, to word it in another language.")


def wire_export(transfer: Transfer) -> ExportOut:
    return ExportOut.model_validate({**vars(transfer), **transfer.asked, "proof": transfer.result})


def wire_import(transfer: Transfer) -> ImportOut:
    told = {"warnings": [], "texts": {}} | (transfer.result or {})
    return ImportOut.model_validate({**vars(transfer), **transfer.asked, **told})


@router.post("/imports")
@takes_up_to(2 * MAX_TEMPLATE)
def create_import(body: ImportCreate, caller: ModelsWriter, context: ContextDep) -> ImportOut:
    """Make a model of an adapter that was trained elsewhere. The worker checks it; the files may be deleted when the
    import has ended."""
    check_scope(caller, Scope.FILES_READ)
    if body.suffix is not None:
        check_suffix(body.suffix)
    base = context.catalog.find(body.base)
    if base is None or base.embeds or not base.serving:
        raise InvalidRequest(say("error.import_base", name=body.base), param="base", code="model_not_found")
    asked = {**body.model_dump(exclude={"base"}), "base": base.name, "model_id": new_id("model")}
    with write(context.database) as conn:
        found = [files.find_file(conn, file_id, caller.project_id) for file_id in body.files]
        for file_id, file in zip(body.files, found, strict=True):
            if file is None:
                raise InvalidRequest(say("error.no_such_file", file_id=file_id), param="files")
        names = [file.filename for file in found if file is not None]
        if len({*names}) != len(names):
            raise InvalidRequest(say("error.import_same_names"), param="files")
        transfer = _new(context, caller, "import", asked)
        made = {"base": base.name, "files": body.files}
        _insert(conn, context, caller, transfer, "model.import.created", made)
    return wire_import(transfer)


@router.get("/imports")
def list_imports(
    caller: ModelsReader, context: ContextDep, after: After = None, limit: Limit = 20
) -> CursorListing[ImportOut]:
    """Newest first."""
    with read(context.database) as conn:
        page = transfers.list_transfers(conn, caller.project_id, "import", after=after, limit=limit)
    return CursorListing[ImportOut].of(page, wire_import)


@router.get("/imports/{import_id}")
def retrieve_import(import_id: str, caller: ModelsReader, context: ContextDep) -> ImportOut:
    with read(context.database) as conn:
        return wire_import(transfers.get_transfer(conn, import_id, caller.project_id, "import"))


@router.post("/imports/{import_id}/cancel")
def cancel_import(import_id: str, caller: ModelsWriter, context: ContextDep) -> ImportOut:
    """Nothing is left of it, and its files stay."""
    return wire_import(_cancel(context, caller, import_id, "import", "model.import.cancelled"))


@router.get("/exports")
def list_exports(
    caller: ModelsReader,
    context: ContextDep,
    model: str | None = Query(None, max_length=256, description="Only exports of this model."),
    after: After = None,
    limit: Limit = 20,
) -> CursorListing[ExportOut]:
    """Newest first."""
    with read(context.database) as conn:
        page = transfers.list_transfers(conn, caller.project_id, "export", model=model, after=after, limit=limit)
    return CursorListing[ExportOut].of(page, wire_export)


@router.get("/exports/{export_id}")
def retrieve_export(export_id: str, caller: ModelsReader, context: ContextDep) -> ExportOut:
    with read(context.database) as conn:
        return wire_export(transfers.get_transfer(conn, export_id, caller.project_id, "export"))


@router.post("/exports/{export_id}/cancel")
def cancel_export(export_id: str, caller: ModelsWriter, context: ContextDep) -> ExportOut:
    """Nothing is left of it."""
    return wire_export(_cancel(context, caller, export_id, "export", "model.export.cancelled"))


@router.post("/models/{model:path}/exports")
def create_export(model: str, body: ExportCreate, caller: ModelsWriter, context: ContextDep) -> ExportOut:
    """Write a fine-tuned model for other programs. The worker proves that it answers there as it does here; the result
    is a file."""
    check_scope(caller, Scope.FILES_WRITE)
    check_form(body.format, body.lora)
    with write(context.database) as conn:
        own = models.get_own_model(conn, model, caller.project_id)
        transfer = _new(context, caller, "export", {**body.model_dump(), "result_id": new_id("file")}, own.name)
        _insert(conn, context, caller, transfer, "model.export.created", {"format": body.format})
    return wire_export(transfer)


def _cancel(context: Context, caller: Caller, transfer_id: str, kind: TransferKind, event: EventType) -> Transfer:
    now = context.clock()
    with write(context.database) as conn:
        transfer = transfers.cancel_transfer(conn, transfer_id, caller.project_id, kind, now)
        record(conn, caller, event, now=now, resource_id=transfer.model or transfer.id)
    remove_rest(context.blobs, transfer)
    return transfer


def _new(context: Context, caller: Caller, kind: TransferKind, asked: Any, model: str = "") -> Transfer:
    return Transfer(
        id=new_id(kind),
        project_id=caller.project_id,
        created_at=context.now(),
        kind=kind,
        status=TransferStatus.QUEUED,
        asked=asked,
        created_by=caller.user_id,
        model=model or None,
    )


def _insert(
    conn: Connection, context: Context, caller: Caller, transfer: Transfer, event: EventType, made: dict[str, Any]
) -> None:
    now, own = context.clock(), project_limits(conn, context.settings, caller.project_id)
    tenants.get_active_project(conn, caller.project_id)
    check_not_full(conn, caller.project_id, own, now=now)
    if transfers.num_unfinished(conn, caller.project_id) >= MAX_UNFINISHED:
        raise RateLimited(say("error.too_many_transfers", most=MAX_UNFINISHED), code="rate_limit_exceeded")
    transfers.insert_transfer(conn, transfer)
    record(conn, caller, event, now=now, resource_id=transfer.model or transfer.id, made=made)
