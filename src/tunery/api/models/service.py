"""Which models a project sees, and the end of one."""

import logging

from tunery.api.access import require_owner
from tunery.api.context import Context
from tunery.api.models.schemas import Model, wire_base_model, wire_fine_tuned
from tunery.domain.errors import InvalidRequest, no_such_model
from tunery.domain.tenants import Caller
from tunery.store import models as store
from tunery.store.database import read, write
from tunery.texts import say

log = logging.getLogger(__name__)


def list_models(context: Context, caller: Caller) -> list[Model]:
    """Fine-tuned ones first, newest first; then the catalog's."""
    with read(context.database) as conn:
        own = store.list_models(conn, caller.project_id)
    return [wire_fine_tuned(model) for model in own] + [wire_base_model(model) for model in context.catalog]


def get_model(context: Context, caller: Caller, name: str) -> Model:
    with read(context.database) as conn:
        own = store.find_model(conn, name, caller.project_id)
    if own is not None:
        return wire_fine_tuned(own)
    base = context.catalog.find(name)
    if base is None:
        raise no_such_model(name)
    return wire_base_model(base, name)


def delete_model(context: Context, caller: Caller, name: str) -> None:
    """The row goes first: from then on no request finds the model, whatever becomes of its files."""
    require_owner(caller)
    if context.catalog.find(name) is not None:
        raise InvalidRequest(say("error.base_model_not_deletable", name=name), param="model")
    with write(context.database) as conn:
        model = store.delete_model(conn, name, caller.project_id)
    context.blobs.delete_dir(model.blob)
