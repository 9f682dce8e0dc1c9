"""Bases of this server: looked at by all, added and removed by an owner of the organisation that set it up. The worker
fetches and tries what is added (`transfers.runner`)."""

from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool

from tunery.api.access import Admin, ModelsReader, ServerAdmin
from tunery.api.context import Context, ContextDep
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.routing import Router
from tunery.api.tunery.bases.schemas import (
    AdditionOut,
    BaseCreate,
    BaseList,
    BaseOut,
    BaseRemoved,
    wire_addition,
)
from tunery.bases.add import check, wish_of
from tunery.bases.remove import remove, uses_in
from tunery.domain.errors import InvalidRequest, RateLimited
from tunery.domain.ids import new_id
from tunery.domain.tenants import NO_PROJECT
from tunery.domain.transfers import MAX_UNFINISHED, Transfer, TransferStatus
from tunery.engines.host import State
from tunery.models.catalog import CatalogModel
from tunery.models.config import read_sizes
from tunery.models.memory import serving_bytes, training_bytes
from tunery.models.sources import cache as sources
from tunery.store import transfers
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(prefix="/tunery/v1", tags=["Bases"])

REMOTE = ("hf:", "pypi:")  # what a request may name: nothing of the server's own disk


@router.get("/bases")
async def list_bases(caller: ModelsReader, context: ContextDep) -> BaseList:
    """Every base of the catalog, with what it needs, what stands on it, and whether it is warm."""
    states = await context.engines.states()
    return await run_in_threadpool(_bases, context, states)


def _bases(context: Context, states: Mapping[str, State]) -> BaseList:
    own = context.catalog.own
    return BaseList(
        data=[_base(context, model, model.name in own, states.get(model.source)) for model in context.catalog]
    )


@router.post("/organization/base_additions")
def add_base(body: BaseCreate, caller: ServerAdmin, context: ContextDep) -> AdditionOut:
    """Fetch a model, try whether this server can train and serve it, and write it into the catalog. The worker does it;
    the addition says how far it is."""
    if not body.source.startswith(REMOTE):
        raise InvalidRequest(say("error.base_source", known=list(REMOTE)), param="source")
    if caller.project_id == NO_PROJECT:
        raise InvalidRequest(say("error.no_active_project"), code="project_archived")
    asked = body.model_dump(exclude_none=True)
    check(wish_of(asked), context.settings)
    transfer = Transfer(
        id=new_id("base"),
        project_id=caller.project_id,
        created_at=context.now(),
        kind="base",
        status=TransferStatus.QUEUED,
        asked=asked,
        created_by=caller.user_id,
    )
    with write(context.database) as conn:
        if transfers.num_unfinished(conn, caller.project_id) >= MAX_UNFINISHED:
            raise RateLimited(say("error.too_many_transfers", most=MAX_UNFINISHED), code="rate_limit_exceeded")
        transfers.insert_transfer(conn, transfer)
        record(conn, caller, "base.added", now=context.clock(), resource_id=body.name, made={"source": body.source})
    return wire_addition(transfer)


@router.get("/organization/base_additions")
def list_additions(
    caller: Admin, context: ContextDep, after: After = None, limit: Limit = 20
) -> CursorListing[AdditionOut]:
    """Of the project, newest first."""
    with read(context.database) as conn:
        page = transfers.list_transfers(conn, caller.project_id, "base", after=after, limit=limit)
    return CursorListing[AdditionOut].of(page, wire_addition)


@router.get("/organization/base_additions/{addition_id}")
def retrieve_addition(addition_id: str, caller: Admin, context: ContextDep) -> AdditionOut:
    with read(context.database) as conn:
        return wire_addition(transfers.get_transfer(conn, addition_id, caller.project_id, "base"))


@router.delete("/organization/bases/{base}")
def remove_base(base: str, caller: ServerAdmin, context: ContextDep) -> BaseRemoved:
    """Take a base that was added out of the catalog, and its files from the disk. Refused while a model, a
    job, a batch or a run of an eval stands on it."""
    freed = remove(base, context.settings, context.database)
    with write(context.database) as conn:
        record(conn, caller, "base.removed", now=context.clock(), resource_id=base)
    return BaseRemoved(name=base, freed_bytes=freed)


def _base(context: Context, model: CatalogModel, is_own: bool, state: State | None) -> BaseOut:
    folder = sources.cached(model.source, context.settings.models_dir)
    sizes = read_sizes(folder) if folder and not model.embeds else None
    with read(context.database) as conn:
        uses = uses_in(conn, model)
    return BaseOut(
        name=model.name,
        aliases=list(model.aliases),
        source=model.source,
        licence=model.licence,
        languages=list(model.languages),
        context_length=model.context_length,
        kind="embedding" if model.embeds else "base",
        pinned=model.pinned,
        state=state,
        own=is_own,
        bytes=sources.size_of(folder) if folder else None,
        num_models=len(uses.models),
        num_jobs=len(uses.jobs),
        training_bytes=training_bytes(sizes, lora_rank=model.lora_rank) if sizes else None,
        serving_bytes=serving_bytes(sizes) if sizes else None,
    )
