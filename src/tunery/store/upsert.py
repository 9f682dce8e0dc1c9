"""INSERT … ON CONFLICT, which both databases speak alike and SQLAlchemy offers by dialect only."""

from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_or(conn: Connection, table: Table) -> Any:
    """An INSERT with on_conflict_do_update and on_conflict_do_nothing."""
    return postgresql.insert(table) if conn.dialect.name == "postgresql" else sqlite.insert(table)
