"""A project's own names for models: set, look back, and undo in one step."""

from sqlalchemy import Connection

from tunery.api.context import Context
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.models import Alias, AliasChange
from tunery.domain.tenants import Caller
from tunery.engines.pool import UPSTREAM, resolve
from tunery.store import models, tenants
from tunery.store.database import read, write
from tunery.texts import say


def set_alias(context: Context, caller: Caller, *, name: str, target: str, reason: str) -> Alias:
    """Raises NotFound when the target is no model of the project, InvalidRequest when it is an alias itself."""
    with write(context.database) as conn:
        if name == target:
            raise InvalidRequest(say("error.alias_to_itself"), param="target")
        if models.find_alias(conn, caller.project_id, target):
            raise InvalidRequest(say("error.alias_to_alias", target=target), param="target")
        if not target.startswith(UPSTREAM):
            resolve(conn, context.catalog, target, caller.project_id)
        elif context.settings.upstream_api_key is None:
            raise InvalidRequest(say("error.no_upstream_key"), param="target")
        else:
            context.prices.check_upstream(target.removeprefix(UPSTREAM), context.clock(), param="target")
        return _set(conn, context, caller, name, target, reason)


def revert(context: Context, caller: Caller, name: str) -> str | None:
    """Back to what the name meant before its last change: another model, or no alias at all. Twice undoes itself."""
    with write(context.database) as conn:
        changes = models.list_alias_changes(conn, caller.project_id, name)
        if not changes:
            raise NotFound(say("error.no_such_alias", name=name), param="name")
        before = changes[1].target if len(changes) > 1 else None
        if before is None:
            _delete(conn, context, caller, name, "reverted")
        else:
            _set(conn, context, caller, name, before, "reverted")
        return before


def delete(context: Context, caller: Caller, name: str) -> None:
    with write(context.database) as conn:
        if not _delete(conn, context, caller, name, "deleted"):
            raise NotFound(say("error.no_such_alias", name=name), param="name")


def list_aliases(context: Context, caller: Caller) -> tuple[Alias, ...]:
    with read(context.database) as conn:
        return models.list_aliases(conn, caller.project_id)


def history(context: Context, caller: Caller, name: str) -> tuple[AliasChange, ...]:
    with read(context.database) as conn:
        return models.list_alias_changes(conn, caller.project_id, name)


def _set(conn: Connection, context: Context, caller: Caller, name: str, target: str, reason: str) -> Alias:
    tenants.get_active_project(conn, caller.project_id)
    now = context.now()
    return models.set_alias(conn, caller.project_id, name, target, now=now, reason=reason, changed_by=caller.user_id)


def _delete(conn: Connection, context: Context, caller: Caller, name: str, reason: str) -> bool:
    now = context.now()
    return models.delete_alias(conn, caller.project_id, name, now=now, reason=reason, changed_by=caller.user_id)
