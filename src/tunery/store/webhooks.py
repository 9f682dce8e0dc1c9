"""A project's webhook endpoints and their signing secrets, which are encrypted in their rows."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from tunery.domain.errors import NotFound
from tunery.domain.notices import WebhookEndpoint
from tunery.store.paging import Page, fetch_page, own, update_row, values_of
from tunery.store.secrets import secrets_of
from tunery.store.tables import projects, webhook_endpoints
from tunery.texts import say


def insert_endpoint(conn: Connection, endpoint: WebhookEndpoint) -> None:
    secrets = secrets_of(conn)
    values = asdict(endpoint) | {"event_types": list(endpoint.event_types), "secret": secrets.seal(endpoint.secret)}
    if endpoint.old_secret is not None:
        values["old_secret"] = secrets.seal(endpoint.old_secret)
    conn.execute(insert(webhook_endpoints).values(values))


def find_endpoint(conn: Connection, endpoint_id: str, project_id: str) -> WebhookEndpoint | None:
    row = conn.execute(select(webhook_endpoints).where(*own(webhook_endpoints, endpoint_id, project_id))).first()
    return None if row is None else _to_endpoint(conn)(row)


def get_endpoint(conn: Connection, endpoint_id: str, project_id: str) -> WebhookEndpoint:
    endpoint = find_endpoint(conn, endpoint_id, project_id)
    if endpoint is None:
        raise _no_such_endpoint(endpoint_id)
    return endpoint


def list_endpoints(
    conn: Connection, project_id: str, *, after: str | None = None, limit: int = 20
) -> Page[WebhookEndpoint]:
    query = select(webhook_endpoints).where(webhook_endpoints.c.project_id == project_id)
    return fetch_page(conn, query, webhook_endpoints, _to_endpoint(conn), after=after, limit=limit)


def endpoints_for(conn: Connection, project_id: str, event_type: str) -> tuple[WebhookEndpoint, ...]:
    """Those that asked for events of this type. An archived project tells nobody anything."""
    query = (
        select(webhook_endpoints)
        .join(projects, projects.c.id == webhook_endpoints.c.project_id)
        .where(webhook_endpoints.c.project_id == project_id, projects.c.archived_at.is_(None))
    )
    found = [_to_endpoint(conn)(row) for row in conn.execute(query.order_by(webhook_endpoints.c.seq))]
    return tuple(endpoint for endpoint in found if event_type in endpoint.event_types)


def update_endpoint(
    conn: Connection, endpoint_id: str, project_id: str, *, now: float, **values: Any
) -> WebhookEndpoint:
    """`values`: name, url, event_types. Raises NotFound."""
    if "event_types" in values:
        values["event_types"] = list(values["event_types"])
    row = update_row(
        conn, webhook_endpoints, *own(webhook_endpoints, endpoint_id, project_id), **values, updated_at=int(now)
    )
    if row is None:
        raise _no_such_endpoint(endpoint_id)
    return _to_endpoint(conn)(row)


def rotate_secret(
    conn: Connection, endpoint_id: str, project_id: str, *, secret: str, now: float, keep_old_s: int = 0
) -> WebhookEndpoint:
    """The old secret signs too for `keep_old_s`. Raises NotFound."""
    return update_endpoint(
        conn,
        endpoint_id,
        project_id,
        now=now,
        secret=secrets_of(conn).seal(secret),
        old_secret=webhook_endpoints.c.secret if keep_old_s else None,
        old_secret_expires_at=int(now) + keep_old_s if keep_old_s else None,
    )


def delete_endpoint(conn: Connection, endpoint_id: str, project_id: str) -> None:
    """Raises NotFound."""
    if conn.execute(delete(webhook_endpoints).where(*own(webhook_endpoints, endpoint_id, project_id))).rowcount == 0:
        raise _no_such_endpoint(endpoint_id)


def _no_such_endpoint(endpoint_id: str) -> NotFound:
    return NotFound(say("error.no_such_endpoint", endpoint_id=endpoint_id), param="id")


def _to_endpoint(conn: Connection) -> Callable[[Row[Any]], WebhookEndpoint]:
    """Reads rows of this connection, and their secrets with its keys."""
    secrets = secrets_of(conn)

    def read(row: Row[Any]) -> WebhookEndpoint:
        old = None if row.old_secret is None else secrets.open(row.old_secret)
        return WebhookEndpoint(
            **values_of(row, event_types=tuple(row.event_types), secret=secrets.open(row.secret), old_secret=old)
        )

    return read
