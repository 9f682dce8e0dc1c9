"""Rows as they lie in the database, for tests of what was written."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, select

from tunery.store.tables import outbox, usage_records


def ledger(conn: Connection, project_id: str) -> Sequence[Row[Any]]:
    """The ledger's own lines, in order."""
    return conn.execute(_of(usage_records, project_id)).all()


def notices(conn: Connection, project_id: str) -> Sequence[Row[Any]]:
    """What waits in the outbox or left it, newest first."""
    return conn.execute(_of(outbox, project_id)).all()[::-1]


def _of(table: Table, project_id: str) -> Select[Any]:
    return select(table).where(table.c.project_id == project_id).order_by(table.c.created_at, table.c.seq)
