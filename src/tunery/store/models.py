"""Fine-tuned models, who else may use them, and the names of one's own that point at them."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, bindparam, delete, insert, or_, select
from sqlalchemy.sql import ColumnElement

from tunery.domain.errors import no_such_model
from tunery.domain.ids import new_id
from tunery.domain.models import Alias, AliasChange, CheckpointPermission, FineTunedModel
from tunery.store.paging import Page, fetch_page, holds_text, update_row, values_of
from tunery.store.tables import alias_changes, aliases, checkpoint_permissions, models
from tunery.store.upsert import insert_or


def insert_model(conn: Connection, model: FineTunedModel) -> None:
    conn.execute(insert(models).values(asdict(model)))


def find_model(conn: Connection, name: str, project_id: str) -> FineTunedModel | None:
    """The project's own, or one that is shared with it."""
    row = conn.execute(_VISIBLE_MODEL, {"name": name, "project_id": project_id}).first()
    return None if row is None else _to_model(row)


def find_any_model(conn: Connection, name: str) -> FineTunedModel | None:
    """Of whatever project: for whoever works on the database's own machine. No two models have one name."""
    row = conn.execute(select(models).where(models.c.name == name)).first()
    return None if row is None else _to_model(row)


def list_all_models(conn: Connection) -> tuple[FineTunedModel, ...]:
    """Of all projects, oldest first: for whoever works on the database's own machine."""
    return tuple(_to_model(row) for row in conn.execute(select(models).order_by(models.c.seq)))


def get_own_model(conn: Connection, name: str, project_id: str) -> FineTunedModel:
    """Shared ones do not count: to delete or to share needs ownership. Raises no_such_model."""
    return _found(conn.execute(select(models).where(*_own(name, project_id))).first(), name)


def list_models(
    conn: Connection,
    project_id: str,
    *,
    text: str = "",
    also: Iterable[str] = (),
    names: Iterable[str] | None = None,
    limit: int | None = None,
) -> tuple[FineTunedModel, ...]:
    """Own and shared, newest first; the API's list has no pages. `text` may stand anywhere in a name, also its display
    name; models named in `also` are found whatever it is. None but those of `names`, if they are given."""
    query = select(models).where(_visible_to(project_id)).order_by(models.c.created_at.desc(), models.c.seq.desc())
    if text:
        holds = holds_text(text, models.c.name, models.c.display_name)
        query = query.where(holds | models.c.name.in_(list(also)))
    if names is not None:
        query = query.where(models.c.name.in_(list(names)))
    query = query.limit(limit)
    return tuple(_to_model(row) for row in conn.execute(query))


def list_models_of_job(conn: Connection, job_id: str) -> tuple[FineTunedModel, ...]:
    query = select(models).where(models.c.job_id == job_id).order_by(models.c.step_number.desc())
    return tuple(_to_model(row) for row in conn.execute(query))


def describe_model(conn: Connection, name: str, project_id: str, **words: str | None) -> FineTunedModel:
    """Its owner's words for it: `display_name` and `card`, those that are given. Raises no_such_model, also for a model
    that is only shared with the project."""
    return _found(update_row(conn, models, *_own(name, project_id), **words), name)


def names_on(conn: Connection, source: str) -> list[str]:
    """Of all projects: what stands on these weights, newest first."""
    query = select(models.c.name).where(models.c.source == source).order_by(models.c.created_at.desc())
    return list(conn.execute(query).scalars())


def delete_model(conn: Connection, name: str, project_id: str) -> FineTunedModel:
    """The deleted row, whose blobs the caller removes after the commit; permissions go with it."""
    return _found(conn.execute(delete(models).where(*_own(name, project_id)).returning(models)).first(), name)


def _own(name: str, project_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return models.c.name == name, models.c.project_id == project_id


def _found(row: Row[Any] | None, name: str) -> FineTunedModel:
    if row is None:
        raise no_such_model(name)
    return _to_model(row)


def insert_permission(conn: Connection, model_name: str, project_id: str, now: float) -> CheckpointPermission:
    """Share a model with a project. Twice gives the first permission again."""
    table = checkpoint_permissions
    values = {"id": new_id("permission"), "model_name": model_name, "project_id": project_id, "created_at": int(now)}
    conn.execute(insert_or(conn, table).values(values).on_conflict_do_nothing())
    query = select(table).where(table.c.model_name == model_name, table.c.project_id == project_id)
    return _to_permission(conn.execute(query).one())


def list_permissions(
    conn: Connection,
    model_name: str,
    *,
    project_id: str | None = None,
    after: str | None = None,
    limit: int = 10,
    descending: bool = True,
) -> Page[CheckpointPermission]:
    table = checkpoint_permissions
    query = select(table).where(table.c.model_name == model_name)
    if project_id is not None:
        query = query.where(table.c.project_id == project_id)
    return fetch_page(conn, query, table, _to_permission, after=after, limit=limit, descending=descending)


def delete_permission(conn: Connection, model_name: str, permission_id: str) -> bool:
    table = checkpoint_permissions
    done = conn.execute(delete(table).where(table.c.id == permission_id, table.c.model_name == model_name))
    return done.rowcount == 1


def set_alias(
    conn: Connection,
    project_id: str,
    name: str,
    target: str,
    *,
    now: float,
    reason: str = "",
    changed_by: str | None = None,
) -> Alias:
    """Point the name at a model. The history keeps what it pointed at before."""
    where = (aliases.c.project_id == project_id, aliases.c.name == name)
    row = {"project_id": project_id, "name": name, "target": target, "created_at": int(now), "updated_at": int(now)}
    changed = {"target": target, "updated_at": int(now)}
    statement = insert_or(conn, aliases).values(row)
    conn.execute(statement.on_conflict_do_update(index_elements=["project_id", "name"], set_=changed))
    _record_alias_change(conn, project_id, name, target, now=now, reason=reason, changed_by=changed_by)
    return _to_alias(conn.execute(select(aliases).where(*where)).one())


def find_alias(conn: Connection, project_id: str, name: str) -> Alias | None:
    row = conn.execute(_ALIAS, {"name": name, "project_id": project_id}).first()
    return None if row is None else _to_alias(row)


def list_aliases(conn: Connection, project_id: str) -> tuple[Alias, ...]:
    rows = conn.execute(select(aliases).where(aliases.c.project_id == project_id).order_by(aliases.c.name))
    return tuple(_to_alias(row) for row in rows)


def delete_alias(
    conn: Connection, project_id: str, name: str, *, now: float, reason: str = "", changed_by: str | None = None
) -> bool:
    where = (aliases.c.project_id == project_id, aliases.c.name == name)
    if conn.execute(delete(aliases).where(*where)).rowcount == 0:
        return False
    _record_alias_change(conn, project_id, name, None, now=now, reason=reason, changed_by=changed_by)
    return True


def list_alias_changes(conn: Connection, project_id: str, name: str) -> tuple[AliasChange, ...]:
    """Newest first."""
    table = alias_changes
    query = select(table).where(table.c.project_id == project_id, table.c.name == name).order_by(table.c.seq.desc())
    return tuple(
        AliasChange(row.name, row.target, row.reason, row.changed_by, row.created_at) for row in conn.execute(query)
    )


def _record_alias_change(
    conn: Connection,
    project_id: str,
    name: str,
    target: str | None,
    *,
    now: float,
    reason: str,
    changed_by: str | None,
) -> None:
    conn.execute(
        insert(alias_changes).values(
            project_id=project_id,
            name=name,
            target=target,
            reason=reason,
            changed_by=changed_by,
            created_at=int(now),
        )
    )


def _visible_to(project_id: str | BindParameter[str]) -> Any:
    shared = select(checkpoint_permissions.c.model_name).where(checkpoint_permissions.c.project_id == project_id)
    return or_(models.c.project_id == project_id, models.c.name.in_(shared))


# Made once: every completion asks these two, and building a query takes longer than running it.
_VISIBLE_MODEL = select(models).where(models.c.name == bindparam("name"), _visible_to(bindparam("project_id")))
_ALIAS = select(aliases).where(aliases.c.project_id == bindparam("project_id"), aliases.c.name == bindparam("name"))


def _to_model(row: Row[Any]) -> FineTunedModel:
    return FineTunedModel(**values_of(row))


def _to_permission(row: Row[Any]) -> CheckpointPermission:
    return CheckpointPermission(**values_of(row))


def _to_alias(row: Row[Any]) -> Alias:
    return Alias(row.name, row.project_id, row.target, row.created_at, row.updated_at)
