"""A project's own names for models: set, look back, and undo in one step. They hold colons and slashes, so that they go
in bodies and queries, never in paths."""

from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, Field
from sqlalchemy import Connection

from tunery.api.access import ModelsReader, ModelsWriter
from tunery.api.body import Body
from tunery.api.context import Context, ContextDep
from tunery.api.paging import Resource
from tunery.api.routing import Router
from tunery.domain.audit import EventType
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.models import Alias
from tunery.domain.tenants import Caller
from tunery.engines.pool import UPSTREAM, resolve
from tunery.store import models, tenants
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(tags=["Aliases"])

Name = Annotated[str, Query(min_length=1, max_length=256)]


class AliasSet(Body):
    name: str = Field(min_length=1, max_length=256, description="The name that callers use.")
    target: str = Field(min_length=1, max_length=256, description="The model that is to answer to it.")
    reason: str = Field("", max_length=500, description="Kept in the history.")


class AliasName(Body):
    name: str = Field(min_length=1, max_length=256)


class AliasOut(Resource):
    object: Literal["tunery.alias"] = "tunery.alias"
    name: str
    target: str
    created_at: int
    updated_at: int


class AliasList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AliasOut]


class AliasChangeOut(Resource):
    object: Literal["tunery.alias_change"] = "tunery.alias_change"
    name: str
    target: str | None = Field(description="Null: the alias was removed.")
    reason: str
    changed_by: str | None
    created_at: int


class AliasChangeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AliasChangeOut]


class Reverted(BaseModel):
    object: Literal["tunery.alias_revert"] = "tunery.alias_revert"
    name: str
    target: str | None = Field(description="What answers to the name now; null when it is no alias any more.")


@router.post("/tunery/v1/aliases")
def set_alias(body: AliasSet, caller: ModelsWriter, context: ContextDep) -> AliasOut:
    with write(context.database) as conn:
        _check_target(conn, context, caller, body)
        alias = _set(conn, context, caller, body.name, body.target, body.reason)
        _record(conn, context, caller, "alias.updated", body.name, body.target)
    return AliasOut.of(alias)


def _check_target(conn: Connection, context: Context, caller: Caller, body: AliasSet) -> None:
    """Raises NotFound when the target is no model of the project, InvalidRequest when it is an alias itself."""
    target = body.target
    if body.name == target:
        raise InvalidRequest(say("error.alias_to_itself"), param="target")
    if models.find_alias(conn, caller.project_id, target):
        raise InvalidRequest(say("error.alias_to_alias", target=target), param="target")
    if not target.startswith(UPSTREAM):
        resolve(conn, context.catalog, target, caller.project_id)
    elif context.settings.upstream_api_key is None:
        raise InvalidRequest(say("error.no_upstream_key"), param="target")
    else:
        # What it will be asked for is not known: each request checks again.
        name = target.removeprefix(UPSTREAM)
        context.prices.check_upstream(name, context.clock(), param="target", generates=False)


@router.get("/tunery/v1/aliases")
def list_aliases(caller: ModelsReader, context: ContextDep) -> AliasList:
    with read(context.database) as conn:
        return AliasList(data=[AliasOut.of(alias) for alias in models.list_aliases(conn, caller.project_id)])


@router.delete("/tunery/v1/aliases")
def delete_alias(name: Name, caller: ModelsWriter, context: ContextDep) -> Reverted:
    with write(context.database) as conn:
        if not _delete(conn, context, caller, name, "deleted"):
            raise NotFound(say("error.no_such_alias", name=name), param="name")
        _record(conn, context, caller, "alias.deleted", name)
    return Reverted(name=name, target=None)


@router.post("/tunery/v1/aliases/revert")
def revert_alias(body: AliasName, caller: ModelsWriter, context: ContextDep) -> Reverted:
    # Back to what the name meant before its last change: another model, or no alias at all. Twice undoes itself.
    with write(context.database) as conn:
        changes = models.list_alias_changes(conn, caller.project_id, body.name)
        if not changes:
            raise NotFound(say("error.no_such_alias", name=body.name), param="name")
        before = changes[1].target if len(changes) > 1 else None
        if before is None:
            _delete(conn, context, caller, body.name, "reverted")
        else:
            _set(conn, context, caller, body.name, before, "reverted")
        _record(conn, context, caller, "alias.reverted", body.name, before)
    return Reverted(name=body.name, target=before)


@router.get("/tunery/v1/aliases/history")
def alias_history(name: Name, caller: ModelsReader, context: ContextDep) -> AliasChangeList:
    with read(context.database) as conn:
        changes = models.list_alias_changes(conn, caller.project_id, name)
    return AliasChangeList(data=[AliasChangeOut.of(change) for change in changes])


def _set(conn: Connection, context: Context, caller: Caller, name: str, target: str, reason: str) -> Alias:
    tenants.get_active_project(conn, caller.project_id)
    now = context.now()
    return models.set_alias(conn, caller.project_id, name, target, now=now, reason=reason, changed_by=caller.user_id)


def _delete(conn: Connection, context: Context, caller: Caller, name: str, reason: str) -> bool:
    now = context.now()
    return models.delete_alias(conn, caller.project_id, name, now=now, reason=reason, changed_by=caller.user_id)


def _record(
    conn: Connection, context: Context, caller: Caller, event: EventType, name: str, target: str | None = None
) -> None:
    made = {"name": name} | ({"target": target} if target else {})
    record(conn, caller, event, now=context.clock(), resource_id=name, made=made)
