"""Limits of projects and keys, and the state that enforces them between processes."""

from dataclasses import asdict
from typing import Literal

from sqlalchemy import Connection, bindparam, or_, select, update

from tunery.domain.limits import Bucket, Limits
from tunery.store.paging import values_of
from tunery.store.tables import budget_warnings, limits, rate_buckets
from tunery.store.upsert import insert_or

Unit = Literal["requests", "tokens"]


# Made once: every completion asks it, and building a query takes longer than running it.
_OF_SUBJECTS = select(limits).where(
    or_(limits.c.subject_id == bindparam("one"), limits.c.subject_id == bindparam("other"))
)


def get_limits(conn: Connection, subject_id: str, other_id: str = "") -> dict[str, Limits]:
    """By subject (a project's or a key's id); those that have none are missing."""
    rows = conn.execute(_OF_SUBJECTS, {"one": subject_id, "other": other_id})
    return {row.subject_id: Limits(**values_of(row, "subject_id", "updated_at")) for row in rows}


def set_limits(conn: Connection, subject_id: str, values: Limits, now: float) -> None:
    row = asdict(values) | {"updated_at": int(now)}
    statement = insert_or(conn, limits).values(subject_id=subject_id, **row)
    conn.execute(statement.on_conflict_do_update(index_elements=["subject_id"], set_=row))


def lock_bucket(conn: Connection, subject_id: str, unit: Unit, *, limit: int, now: float) -> Bucket:
    """The bucket, full when it is new, and this transaction's alone until it ends."""
    row = {"subject_id": subject_id, "unit": unit, "left": float(limit), "updated_at": now}
    conn.execute(insert_or(conn, rate_buckets).values(row).on_conflict_do_nothing())
    table = rate_buckets
    query = select(table.c.left, table.c.updated_at).where(table.c.subject_id == subject_id, table.c.unit == unit)
    found = conn.execute(query.with_for_update()).one()
    return Bucket(found.left, found.updated_at)


def save_bucket(conn: Connection, subject_id: str, unit: Unit, bucket: Bucket) -> None:
    conn.execute(
        update(rate_buckets)
        .where(rate_buckets.c.subject_id == subject_id, rate_buckets.c.unit == unit)
        .values(left=bucket.left, updated_at=bucket.updated_at)
    )


def note_warning(conn: Connection, project_id: str, *, month: int, percent: int, now: float) -> bool:
    """True for the one caller who shall send the mail about this month's budget."""
    statement = insert_or(conn, budget_warnings).values(
        project_id=project_id, month=month, percent=percent, created_at=int(now)
    )
    done = conn.execute(statement.on_conflict_do_nothing().returning(budget_warnings.c.month))
    return done.first() is not None
