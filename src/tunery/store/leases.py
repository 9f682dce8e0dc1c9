"""The lease of who works on a row, such as a batch or an export: one worker, as long as it says that it lives."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Row, Table, func, or_, select, update

from tunery.store.paging import exists, update_row

T = TypeVar("T")

NO_WORKER = {"worker_id": None, "lease_expires_at": None}
OF_PROJECT = 4  # rows of one table that are worked on at once


@dataclass(frozen=True)
class Leases(Generic[T]):
    """Of the rows of a table with `project_id`, `status`, `worker_id` and `lease_expires_at`."""

    table: Table
    unfinished: tuple[str, ...]  # the statuses of those that are to be worked on
    to_domain: Callable[[Row[Any]], T]

    def claim(
        self,
        conn: Connection,
        worker_id: str,
        *,
        now: float,
        lease_s: float,
        held: Collection[str] = (),
        only: Mapping[str, Any] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> T | None:
        """One that nobody works on, for this worker, by one statement. Projects take turns: first the one with the
        fewest in work, then the oldest row.

        `held`: what this worker has in hand, whose leases end all at once when the machine sleeps or its clock is set.
        `only`: columns and what they have to hold. `values`: what else is to be noted of it.
        """
        table, waiting = self.table, self.table.alias("waiting")
        busy = (
            select(table.c.project_id, func.count().label("number"))
            .where(table.c.lease_expires_at >= now)
            .group_by(table.c.project_id)
            .subquery("busy")
        )
        in_work = func.coalesce(busy.c.number, 0)
        free = or_(waiting.c.lease_expires_at.is_(None), waiting.c.lease_expires_at < now)
        chosen = (
            select(waiting.c.id)
            .outerjoin(busy, busy.c.project_id == waiting.c.project_id)
            .where(waiting.c.status.in_(self.unfinished), free, waiting.c.id.not_in(held), in_work < OF_PROJECT)
            .where(*(waiting.c[name] == value for name, value in (only or {}).items()))
            .order_by(in_work, waiting.c.created_at, waiting.c.seq)
            .limit(1)
            .with_for_update(of=waiting, skip_locked=True)
            .scalar_subquery()
        )
        mine = {"worker_id": worker_id, "lease_expires_at": now + lease_s}
        row = update_row(conn, table, table.c.id == chosen, **mine, **(values or {}))
        return None if row is None else self.to_domain(row)

    def list_holders(self, conn: Connection) -> tuple[str, ...]:
        """The workers that hold a row."""
        worker_id = self.table.c.worker_id
        return tuple(conn.scalars(select(worker_id).where(worker_id.is_not(None)).distinct()))

    def free(self, conn: Connection, *worker_ids: str) -> None:
        """Of workers that have ended."""
        conn.execute(update(self.table).where(self.table.c.worker_id.in_(worker_ids)).values(**NO_WORKER))

    def is_held(self, conn: Connection, row_id: str, *, now: float) -> bool:
        """Whether a worker works on it now."""
        held = self.table.c.id == row_id, self.table.c.lease_expires_at >= now
        return exists(conn, select(self.table.c.id).where(*held))

    def renew(self, conn: Connection, row_id: str, worker_id: str, *, until: float, **values: Any) -> T | None:
        """With what else is to be noted of it. None: it is no longer this worker's."""
        mine = self.table.c.id == row_id, self.table.c.worker_id == worker_id
        row = update_row(conn, self.table, *mine, lease_expires_at=until, **values)
        return None if row is None else self.to_domain(row)
