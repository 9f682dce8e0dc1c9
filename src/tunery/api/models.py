"""Which models a project sees, and the end of one."""

from collections.abc import Mapping
from functools import partial
from typing import Literal

from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from tunery.api.access import ModelsReader, ModelsWriter, require_owner
from tunery.api.context import Context, ContextDep
from tunery.api.routing import Router
from tunery.domain.errors import InvalidRequest, no_such_model
from tunery.domain.models import FineTunedModel
from tunery.domain.tenants import Caller
from tunery.engines.host import State
from tunery.models.catalog import CatalogModel
from tunery.store import models as store
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(prefix="/v1/models", tags=["Models"])


class Model(BaseModel):
    object: Literal["model"] = "model"
    id: str
    created: int
    owned_by: str
    warm: bool = Field(description="Its base is in memory: it answers at once. Another one is loaded first.")
    shutdown_date: str | None = Field(default=None, description="Always null: weights of one's own are not shut down.")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class DeletedModel(BaseModel):
    object: Literal["model"] = "model"
    id: str
    deleted: bool = True


# The catalog has no dates of its own; clients only want an integer that stays the same.
CATALOG_CREATED = 1_700_000_000


def wire_base_model(model: CatalogModel, states: Mapping[str, State], name: str | None = None) -> Model:
    warm = states.get(model.source) == "warm"
    return Model(id=name or model.name, created=CATALOG_CREATED, owned_by=model.owned_by, warm=warm)


def wire_fine_tuned(model: FineTunedModel, states: Mapping[str, State]) -> Model:
    warm = states.get(model.source) == "warm"
    return Model(id=model.name, created=model.created_at, owned_by=model.owned_by, warm=warm)


@router.get("")
async def list_models(caller: ModelsReader, context: ContextDep) -> ModelList:
    """Fine-tuned ones first, newest first; then the catalog's."""
    own = await context.look(partial(_own_models, context, caller.project_id))
    states = await context.engines.states()
    return ModelList(
        data=[wire_fine_tuned(model, states) for model in own]
        + [wire_base_model(model, states) for model in context.catalog]
    )


def _own_models(context: Context, project_id: str) -> tuple[FineTunedModel, ...]:
    with read(context.database) as conn:
        return store.list_models(conn, project_id)


@router.get("/{model:path}")
async def retrieve_model(model: str, caller: ModelsReader, context: ContextDep) -> Model:
    own = await context.look(partial(_own_model, context, model, caller.project_id))
    states = await context.engines.states()
    if own is not None:
        return wire_fine_tuned(own, states)
    base = context.catalog.find(model)
    if base is None:
        raise no_such_model(model)
    return wire_base_model(base, states, model)


def _own_model(context: Context, name: str, project_id: str) -> FineTunedModel | None:
    with read(context.database) as conn:
        return store.find_model(conn, name, project_id)


@router.delete("/{model:path}")
async def delete_model(model: str, caller: ModelsWriter, context: ContextDep) -> DeletedModel:
    require_owner(caller)
    await context.engines.forget(await run_in_threadpool(_delete, model, caller, context))
    return DeletedModel(id=model)


def _delete(model: str, caller: Caller, context: Context) -> FineTunedModel:
    if context.catalog.find(model) is not None:
        raise InvalidRequest(say("error.base_model_not_deletable", name=model), param="model")
    with write(context.database) as conn:
        deleted = store.delete_model(conn, model, caller.project_id)
        record(conn, caller, "model.deleted", now=context.clock(), resource_id=model)
    # The row went first: no request finds the model any more, whatever becomes of its files.
    context.blobs.delete_dir(deleted.blob)
    return deleted
