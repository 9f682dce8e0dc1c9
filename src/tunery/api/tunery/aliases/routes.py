"""Old names that other models answer to. Apart because every resource has its routes in a `routes.py`."""

from typing import Annotated

from fastapi import Query

from tunery.api.access import ModelsReader, ModelsWriter
from tunery.api.context import ContextDep
from tunery.api.routing import Router
from tunery.api.tunery.aliases import service
from tunery.api.tunery.aliases.schemas import (
    AliasChangeList,
    AliasList,
    AliasName,
    AliasOut,
    AliasSet,
    Reverted,
    wire_alias,
    wire_change,
)

router = Router(tags=["Aliases"])

Name = Annotated[str, Query(min_length=1, max_length=256)]


@router.post("/tunery/v1/aliases")
def set_alias(body: AliasSet, caller: ModelsWriter, context: ContextDep) -> AliasOut:
    return wire_alias(service.set_alias(context, caller, name=body.name, target=body.target, reason=body.reason))


@router.get("/tunery/v1/aliases")
def list_aliases(caller: ModelsReader, context: ContextDep) -> AliasList:
    return AliasList(data=[wire_alias(alias) for alias in service.list_aliases(context, caller)])


@router.delete("/tunery/v1/aliases")
def delete_alias(name: Name, caller: ModelsWriter, context: ContextDep) -> Reverted:
    service.delete(context, caller, name)
    return Reverted(name=name, target=None)


@router.post("/tunery/v1/aliases/revert")
def revert_alias(body: AliasName, caller: ModelsWriter, context: ContextDep) -> Reverted:
    return Reverted(name=body.name, target=service.revert(context, caller, body.name))


@router.get("/tunery/v1/aliases/history")
def alias_history(name: Name, caller: ModelsReader, context: ContextDep) -> AliasChangeList:
    return AliasChangeList(data=[wire_change(change) for change in service.history(context, caller, name)])
