"""The audit log. Only ever added to: triggers in the database refuse anything else."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from tunery.domain.audit import Actor, AuditEvent
from tunery.store.paging import Page, fetch_page, values_of
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
    return fetch_page(conn, query, table, _to_event, after=after, before=before, limit=limit)


def _to_event(row: Row[Any]) -> AuditEvent:
    return AuditEvent(**values_of(row, actor=Actor(**row.actor)))
