"""A project's own names for models: set, look back, and undo in one step."""

from sqlalchemy import Connection

from tunery.api.inference.resolve import UPSTREAM, resolve
from tunery.api.inference.upstream import check_price
from tunery.api.services import Services
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.models import Alias, AliasChange
from tunery.domain.tenants import Caller
from tunery.store import models, tenants
from tunery.store.database import read, write
from tunery.texts import say


def set_alias(services: Services, caller: Caller, *, name: str, target: str, reason: str) -> Alias:
    """Raises NotFound when the target is no model of the project, InvalidRequest when it is an alias itself."""
    with write(services.engine) as conn:
        if name == target:
            raise InvalidRequest(say("error.alias_to_itself"), param="target")
        if models.find_alias(conn, caller.project_id, target):
            raise InvalidRequest(say("error.alias_to_alias", target=target), param="target")
        if not target.startswith(UPSTREAM):
            resolve(conn, services.catalog, target, caller.project_id)
        elif services.settings.upstream_api_key is None:
            raise InvalidRequest(say("error.no_upstream_key"), param="target")
        else:
            check_price(services.prices, target.removeprefix(UPSTREAM), services.clock(), param="target")
        return _set(conn, services, caller, name, target, reason)


def revert(services: Services, caller: Caller, name: str) -> str | None:
    """Back to what the name meant before its last change: another model, or no alias at all. Twice undoes itself."""
    with write(services.engine) as conn:
        changes = models.list_alias_changes(conn, caller.project_id, name)
        if not changes:
            raise NotFound(say("error.no_such_alias", name=name), param="name")
        before = changes[1].target if len(changes) > 1 else None
        if before is None:
            _delete(conn, services, caller, name, "reverted")
        else:
            _set(conn, services, caller, name, before, "reverted")
        return before


def delete(services: Services, caller: Caller, name: str) -> None:
    with write(services.engine) as conn:
        if not _delete(conn, services, caller, name, "deleted"):
            raise NotFound(say("error.no_such_alias", name=name), param="name")


def list_aliases(services: Services, caller: Caller) -> tuple[Alias, ...]:
    with read(services.engine) as conn:
        return models.list_aliases(conn, caller.project_id)


def history(services: Services, caller: Caller, name: str) -> tuple[AliasChange, ...]:
    with read(services.engine) as conn:
        return models.list_alias_changes(conn, caller.project_id, name)


def _set(conn: Connection, services: Services, caller: Caller, name: str, target: str, reason: str) -> Alias:
    tenants.get_active_project(conn, caller.project_id)
    now = services.now()
    return models.set_alias(conn, caller.project_id, name, target, now=now, reason=reason, changed_by=caller.user_id)


def _delete(conn: Connection, services: Services, caller: Caller, name: str, reason: str) -> bool:
    now = services.now()
    return models.delete_alias(conn, caller.project_id, name, now=now, reason=reason, changed_by=caller.user_id)
