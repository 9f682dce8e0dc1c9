"""Messages that wait to be sent: each written in the transaction of what it tells, so neither is without the other."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from tunery.domain.ids import new_id
from tunery.domain.notices import Delivery, Notice, NoticeKind, NoticeStatus
from tunery.store.paging import Page, exists, fetch_page, values_of
from tunery.store.tables import deliveries, outbox, projects
from tunery.texts import Reference, reference

MAX_ATTEMPTS = 50  # that are told of one notice


def insert_outbox(
    conn: Connection,
    kind: NoticeKind,
    topic: str,
    payload: dict[str, Any],
    *,
    project_id: str,
    now: float,
    id: str | None = None,
    endpoint_id: str | None = None,
    recipient: str | None = None,
) -> str:
    """The notice's id (webhook: the delivery's, the same for every attempt)."""
    ident = id or new_id("delivery" if kind == "webhook" else "mail")
    conn.execute(
        insert(outbox).values(
            id=ident,
            project_id=project_id,
            created_at=int(now),
            kind=kind,
            topic=topic,
            payload=payload,
            endpoint_id=endpoint_id,
            recipient=recipient,
            status=NoticeStatus.PENDING,
            next_attempt_at=now,
        )
    )
    return ident


def has_due(conn: Connection, *, now: float) -> bool:
    """Whether claim_due may find something. A look that waits for no writer."""
    free = or_(outbox.c.lease_expires_at.is_(None), outbox.c.lease_expires_at < now)
    query = select(outbox.c.id).where(outbox.c.status == NoticeStatus.PENDING, outbox.c.next_attempt_at <= now, free)
    return exists(conn, query)


def claim_due(conn: Connection, worker_id: str, *, now: float, lease_s: float, limit: int = 20) -> tuple[Notice, ...]:
    """Pending notices whose time has come and that nobody sends, oldest first. One statement; each goes to one caller.

    Counts as an attempt at once: a notice that kills its sender does not come back for ever.
    """
    due = outbox.alias("due")
    free = or_(due.c.lease_expires_at.is_(None), due.c.lease_expires_at < now)
    chosen = (
        select(due.c.id)
        .where(due.c.status == NoticeStatus.PENDING, due.c.next_attempt_at <= now, free)
        .order_by(due.c.next_attempt_at, due.c.seq)
        .limit(limit)
        .with_for_update(of=due, skip_locked=True)
    )
    rows = conn.execute(
        update(outbox)
        .where(outbox.c.id.in_(chosen), outbox.c.status == NoticeStatus.PENDING)
        .values(worker_id=worker_id, lease_expires_at=now + lease_s, attempts=outbox.c.attempts + 1)
        .returning(outbox)
    ).all()
    return tuple(_to_notice(row) for row in sorted(rows, key=lambda row: row.seq))


def mark_delivered(conn: Connection, notice_id: str, *, now: float) -> bool:
    return _finish(conn, notice_id, NoticeStatus.DELIVERED, now, None)


def mark_dead(conn: Connection, notice_id: str, *, now: float, error: str) -> bool:
    """No further attempt."""
    return _finish(conn, notice_id, NoticeStatus.DEAD, now, error)


def mark_retry(conn: Connection, notice_id: str, *, next_attempt_at: float, error: str) -> bool:
    done = conn.execute(
        update(outbox)
        .where(outbox.c.id == notice_id, outbox.c.status == NoticeStatus.PENDING)
        .values(next_attempt_at=next_attempt_at, last_error=error, worker_id=None, lease_expires_at=None)
    )
    return done.rowcount == 1


def resend(conn: Connection, notice_id: str, project_id: str, *, now: float) -> bool:
    """Send a finished notice again, with the same id. False when there is none or it is pending still."""
    done = conn.execute(
        update(outbox)
        .where(
            outbox.c.id == notice_id,
            outbox.c.project_id == project_id,
            outbox.c.status.in_((NoticeStatus.DELIVERED, NoticeStatus.DEAD)),
        )
        .values(status=NoticeStatus.PENDING, attempts=0, next_attempt_at=now, finished_at=None)
    )
    return done.rowcount == 1


def list_mails(conn: Connection, organization_id: str, *, after: str | None = None, limit: int = 20) -> Page[Notice]:
    """The mails of all projects of an organisation, newest first."""
    query = (
        select(outbox)
        .join(projects, projects.c.id == outbox.c.project_id)
        .where(projects.c.organization_id == organization_id, outbox.c.kind == "email")
    )
    return fetch_page(conn, query, outbox, _to_notice, after=after, limit=limit)


def last_errors(conn: Connection, notice_ids: Sequence[str]) -> dict[str, Reference]:
    """What the latest failed attempt at each said, to be worded in any language."""
    query = select(deliveries.c.outbox_id, deliveries.c.error_text).where(deliveries.c.outbox_id.in_(notice_ids))
    return {row.outbox_id: row.error_text for row in conn.execute(query.order_by(deliveries.c.seq)) if row.error_text}


def pending_lag_s(conn: Connection, now: float) -> float:
    """How long the oldest due notice has been waiting; 0 when none is due. For metrics."""
    query = select(func.min(outbox.c.next_attempt_at)).where(outbox.c.status == NoticeStatus.PENDING)
    oldest = conn.execute(query).scalar_one()
    return 0.0 if oldest is None else max(0.0, now - oldest)


def add_delivery(
    conn: Connection,
    notice: Notice,
    *,
    now: float,
    duration_ms: int,
    status_code: int | None = None,
    error: str | None = None,
) -> None:
    """Log one attempt at `notice`, as claimed. The latest MAX_ATTEMPTS are kept: it may be sent again without end."""
    own = deliveries.alias("own")
    earlier = select(own.c.seq).where(own.c.outbox_id == notice.id).order_by(own.c.seq.desc()).offset(MAX_ATTEMPTS - 1)
    conn.execute(delete(deliveries).where(deliveries.c.seq.in_(earlier.limit(MAX_ATTEMPTS))))
    conn.execute(
        insert(deliveries).values(
            id=new_id("delivery"),
            outbox_id=notice.id,
            endpoint_id=notice.endpoint_id,
            created_at=int(now),
            attempt=notice.attempts,
            status_code=status_code,
            error=error,
            error_text=reference(error),
            duration_ms=duration_ms,
        )
    )


def list_deliveries(
    conn: Connection,
    project_id: str,
    *,
    endpoint_id: str | None = None,
    notice_id: str | None = None,
    after: str | None = None,
    limit: int = 20,
) -> Page[Delivery]:
    """Newest first."""
    query = (
        select(deliveries).join(outbox, outbox.c.id == deliveries.c.outbox_id).where(outbox.c.project_id == project_id)
    )
    if endpoint_id is not None:
        query = query.where(deliveries.c.endpoint_id == endpoint_id)
    if notice_id is not None:
        query = query.where(deliveries.c.outbox_id == notice_id)
    return fetch_page(conn, query, deliveries, _to_delivery, after=after, limit=limit)


def _finish(conn: Connection, notice_id: str, status: NoticeStatus, now: float, error: str | None) -> bool:
    done = conn.execute(
        update(outbox)
        .where(outbox.c.id == notice_id, outbox.c.status == NoticeStatus.PENDING)
        .values(status=status, finished_at=int(now), last_error=error, worker_id=None, lease_expires_at=None)
    )
    return done.rowcount == 1


def _to_notice(row: Row[Any]) -> Notice:
    return Notice(**values_of(row, "worker_id", "lease_expires_at", status=NoticeStatus(row.status)))


def _to_delivery(row: Row[Any]) -> Delivery:
    return Delivery(**values_of(row))
