"""The audit log. Only ever added to: triggers in the database refuse anything else."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, Select, insert, select, tuple_

from tunery.domain.audit import Actor, AuditEvent
from tunery.store.paging import Page, values_of
from tunery.store.tables import audit_log


def add_audit(conn: Connection, event: AuditEvent) -> None:
    conn.execute(insert(audit_log).values(asdict(event)))


def list_audit(
    conn: Connection,
    organization_id: str,
    *,
    project_ids: tuple[str, ...] = (),
    types: tuple[str, ...] = (),
    actor_ids: tuple[str, ...] = (),
    actor_emails: tuple[str, ...] = (),
    resource_ids: tuple[str, ...] = (),
    since: int | None = None,
    until: int | None = None,
    after: str | None = None,
    before: str | None = None,
    limit: int = 20,
) -> Page[AuditEvent]:
    """Newest first. `since` is inclusive, `until` exclusive; `before` gives the page that ends just before that id."""
    table = audit_log
    query = select(table).where(table.c.organization_id == organization_id)
    for column, values in (
        (table.c.project_id, project_ids),
        (table.c.type, types),
        (table.c.resource_id, resource_ids),
        (table.c.actor["user_email"].as_string(), actor_emails),
    ):
        if values:
            query = query.where(column.in_(values))
    if actor_ids:
        user, key = (table.c.actor[name].as_string() for name in ("user_id", "api_key_id"))
        query = query.where(user.in_(actor_ids) | key.in_(actor_ids))
    if since is not None:
        query = query.where(table.c.created_at >= since)
    if until is not None:
        query = query.where(table.c.created_at < until)
    return _page(conn, query, after=after, before=before, limit=limit)


def _page(
    conn: Connection, query: Select[Any], *, after: str | None, before: str | None, limit: int
) -> Page[AuditEvent]:
    order = (audit_log.c.created_at, audit_log.c.seq)
    cursor_id = after or before
    if limit <= 0:
        return Page()
    if cursor_id is not None:
        cursor = conn.execute(query.with_only_columns(*order).where(audit_log.c.id == cursor_id)).first()
        if cursor is None:
            return Page()
        here, there = tuple_(*order), tuple_(*cursor)
        query = query.where(here < there if after else here > there)
    upwards = before is not None and after is None
    query = query.order_by(*(column.asc() if upwards else column.desc() for column in order)).limit(limit + 1)
    rows = conn.execute(query).all()
    items = [_to_event(row) for row in rows[:limit]]
    return Page(tuple(reversed(items) if upwards else items), len(rows) > limit)


def _to_event(row: Row[Any]) -> AuditEvent:
    return AuditEvent(**values_of(row, actor=Actor(**row.actor)))
