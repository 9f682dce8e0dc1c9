"""INSERT … ON CONFLICT, which both databases speak alike and SQLAlchemy offers by dialect only."""

from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_or(conn: Connection, table: Table) -> Any:
    """An INSERT with on_conflict_do_update and on_conflict_do_nothing."""
    return insert_for(conn.dialect.name, table)


def insert_for(dialect: str, table: Table) -> Any:
    """The same by the dialect's name, for statements that are made once and kept."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
