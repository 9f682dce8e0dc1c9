"""What a job leaves behind: events and checkpoints, append-only, read newest first; what its checkpoints answered to
its sample prompts; the log of its trainer."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select

from tunery.domain.ids import new_id
from tunery.domain.jobs import Checkpoint, EventType, JobEvent, Level, SampleAnswer
from tunery.store.job_tables import job_samples, trainer_logs
from tunery.store.paging import Page, fetch_page, values_of
from tunery.store.tables import checkpoints, job_events
from tunery.store.upsert import insert_or
from tunery.texts import Reference, reference


def add_event(
    conn: Connection,
    job_id: str,
    message: str,
    *,
    now: float,
    level: Level = "info",
    type: EventType = "message",
    data: dict[str, Any] | None = None,
    text: Reference | None = None,
) -> JobEvent:
    """`text`: what the message was made from, where the message itself is no Text any more."""
    values = {
        "id": new_id("event"),
        "job_id": job_id,
        "created_at": int(now),
        "level": level,
        "type": type,
        "message": message,
        "data": data,
        "text": text or reference(message),
    }
    row = conn.execute(insert(job_events).values(values).returning(job_events)).one()
    return _to_event(row)


def insert_events(conn: Connection, events: list[JobEvent]) -> None:
    """Events that another server made, oldest first: ids and times are theirs, the order is that of insertion."""
    names = ("id", "job_id", "created_at", "level", "type", "message", "data")
    if events:
        conn.execute(insert(job_events), [{name: getattr(event, name) for name in names} for event in events])


def list_events(conn: Connection, job_id: str, *, after: str | None = None, limit: int = 20) -> Page[JobEvent]:
    """Newest first, by order of insertion: a clock that steps back does not reorder them."""
    query = select(job_events).where(job_events.c.job_id == job_id)
    return fetch_page(conn, query, job_events, _to_event, after=after, limit=limit, order=(job_events.c.seq,))


def list_metrics(conn: Connection, job_id: str, *, max_points: int) -> list[dict[str, Any]]:
    """The `data` of metrics events, oldest first, thinned by the database to about `max_points`.

    The first, the last and every end of an epoch (where the whole validation file was measured) are always kept.
    """
    is_metrics = (job_events.c.job_id == job_id) & (job_events.c.type == "metrics")
    total = conn.execute(select(func.count()).select_from(job_events).where(is_metrics)).scalar_one()
    stride = max(1, -(-total // max_points))
    numbered = (
        select(
            job_events.c.seq,
            job_events.c.message,
            job_events.c.data,
            func.row_number().over(order_by=job_events.c.seq).label("position"),
        )
        .where(is_metrics)
        .subquery()
    )
    position = numbered.c.position
    wanted = (position % stride == 0) | position.in_((1, total)) | numbered.c.message.contains("full validation loss")
    rows = conn.execute(select(numbered.c.data).where(wanted).order_by(numbered.c.seq))
    return [row.data for row in rows if row.data]


def add_checkpoint(conn: Connection, checkpoint: Checkpoint) -> None:
    conn.execute(insert(checkpoints).values(asdict(checkpoint)))


def delete_checkpoint(conn: Connection, job_id: str, step_number: int) -> None:
    conn.execute(delete(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.step_number == step_number))


def list_checkpoints(conn: Connection, job_id: str, *, after: str | None = None, limit: int = 10) -> Page[Checkpoint]:
    """Highest step first."""
    query = select(checkpoints).where(checkpoints.c.job_id == job_id)
    order = (checkpoints.c.step_number,)
    return fetch_page(conn, query, checkpoints, _to_checkpoint, after=after, limit=limit, order=order)


def _to_event(row: Row[Any]) -> JobEvent:
    return JobEvent(row.id, row.job_id, row.created_at, row.message, row.level, row.type, row.data, row.seq, row.text)


def _to_checkpoint(row: Row[Any]) -> Checkpoint:
    return Checkpoint(**values_of(row))


def add_samples(conn: Connection, answers: Sequence[SampleAnswer]) -> None:
    """A step that a resumed job trains again keeps its first answers."""
    if answers:
        rows = [asdict(answer) for answer in answers]
        conn.execute(insert_or(conn, job_samples).values(rows).on_conflict_do_nothing())


def list_samples(conn: Connection, job_id: str, *, after_step: int = -1) -> list[SampleAnswer]:
    """In the order of steps, then of prompts."""
    table = job_samples
    query = select(table).where(table.c.job_id == job_id, table.c.step > after_step)
    return [SampleAnswer(**values_of(row)) for row in conn.execute(query.order_by(table.c.step, table.c.prompt))]


def keep_trainer_log(conn: Connection, job_id: str, log: str, *, now: float) -> None:
    """In place of that of an earlier trainer of the job."""
    values = {"log": log, "created_at": int(now)}
    statement = insert_or(conn, trainer_logs).values(job_id=job_id, **values)
    conn.execute(statement.on_conflict_do_update(index_elements=["job_id"], set_=values))


def find_trainer_log(conn: Connection, job_id: str) -> tuple[str, int] | None:
    """The log and when it was kept."""
    row = conn.execute(select(trainer_logs).where(trainer_logs.c.job_id == job_id)).first()
    return None if row is None else (row.log, row.created_at)
