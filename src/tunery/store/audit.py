"""The audit log: who changed what is written in the transaction of the change. Only ever added to: triggers in the
database refuse anything else."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from tunery.domain.audit import Actor, AuditEvent, EventType
from tunery.domain.ids import new_id
from tunery.domain.tenants import Caller
from tunery.store import tenants
from tunery.store.paging import Page, fetch_page, values_of
from tunery.store.tables import audit_log

MAX_VALUE = 600  # characters: a name or a pair of metadata whole, of notes and cards the beginning


def record(
    conn: Connection,
    caller: Caller,
    type: EventType,
    *,
    now: float,
    resource_id: str,
    project_id: str | None = None,
    made: dict[str, Any] | None = None,
    changed: dict[str, Any] | None = None,
) -> None:
    """What was `made`, or asked to be `changed`, goes out under the event's name as OpenAI's `data` and
    `changes_requested`: no secret, no prompt, of a long text its beginning."""
    details = {"data": _shortened(made), "changes_requested": _shortened(changed)}
    event = AuditEvent(
        id=new_id("audit"),
        organization_id=caller.organization_id,
        project_id=project_id or caller.project_id or None,
        created_at=int(now),
        type=type,
        actor=actor_of(conn, caller),
        resource_id=resource_id,
        details={name: value for name, value in details.items() if value is not None},
    )
    add_audit(conn, event)


def _shortened(values: dict[str, Any] | None) -> dict[str, Any] | None:
    if values is None:
        return None
    return {
        name: f"{value[:MAX_VALUE]}…" if isinstance(value, str) and len(value) > MAX_VALUE else value
        for name, value in values.items()
    }


def actor_of(conn: Connection, caller: Caller) -> Actor:
    user = tenants.find_user(conn, caller.user_id) if caller.user_id else None
    return Actor(
        api_key_id=caller.key_id,
        user_id=caller.user_id,
        user_email=user.email if user else None,
        is_service_account=bool(user and user.is_service_account),
        ip_address=caller.ip_address,
        user_agent=caller.user_agent,
    )


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
