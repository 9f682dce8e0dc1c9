from typing import Annotated

from fastapi import Query

from tunery.api.aliases import service
from tunery.api.aliases.schemas import (
    AliasChangeList,
    AliasList,
    AliasName,
    AliasOut,
    AliasSet,
    Reverted,
    wire_alias,
    wire_change,
)
from tunery.api.auth import ModelsReader, ModelsWriter
from tunery.api.routing import Router
from tunery.api.services import ServicesDep

router = Router(tags=["Aliases"])

Name = Annotated[str, Query(min_length=1, max_length=256)]


@router.post("/tunery/v1/aliases")
def set_alias(body: AliasSet, caller: ModelsWriter, services: ServicesDep) -> AliasOut:
    return wire_alias(service.set_alias(services, caller, name=body.name, target=body.target, reason=body.reason))


@router.get("/tunery/v1/aliases")
def list_aliases(caller: ModelsReader, services: ServicesDep) -> AliasList:
    return AliasList(data=[wire_alias(alias) for alias in service.list_aliases(services, caller)])


@router.delete("/tunery/v1/aliases")
def delete_alias(name: Name, caller: ModelsWriter, services: ServicesDep) -> Reverted:
    service.delete(services, caller, name)
    return Reverted(name=name, target=None)


@router.post("/tunery/v1/aliases/revert")
def revert_alias(body: AliasName, caller: ModelsWriter, services: ServicesDep) -> Reverted:
    return Reverted(name=body.name, target=service.revert(services, caller, body.name))


@router.get("/tunery/v1/aliases/history")
def alias_history(name: Name, caller: ModelsReader, services: ServicesDep) -> AliasChangeList:
    return AliasChangeList(data=[wire_change(change) for change in service.history(services, caller, name)])
