"""Keyset pages: the database seeks to the cursor's row instead of counting past it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, FromClause, Row, RowMapping, Select, Table, func, or_, select, tuple_, update
from sqlalchemy.sql import ColumnElement

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    items: tuple[T, ...] = ()
    has_more: bool = False


def fetch_page(
    conn: Connection,
    query: Select[Any],
    table: FromClause,
    to_domain: Callable[[Row[Any]], T],
    *,
    after: str | None,
    limit: int,
    before: str | None = None,
    descending: bool = True,
    order: tuple[ColumnElement[Any], ...] = (),
) -> Page[T]:
    """The `limit` rows that follow the row with id `after`, or end just before that of `before`, in the order
    (created_at, seq), or in that of the columns `order`.

    A cursor that the query itself would not find, an unknown one or another project's, gives an empty page.
    """
    if limit <= 0:
        return Page()
    order = order or (table.c.created_at, table.c.seq)
    is_upwards = after is None and before is not None
    cursor_id, descending = (before, not descending) if is_upwards else (after, descending)
    if cursor_id is not None:
        cursor = conn.execute(query.with_only_columns(*order).where(table.c.id == cursor_id)).first()
        if cursor is None:
            return Page()
        here, there = tuple_(*order), tuple_(*cursor)
        query = query.where(here < there if descending else here > there)
    query = query.order_by(*(column.desc() if descending else column.asc() for column in order)).limit(limit + 1)
    rows = conn.execute(query).all()
    items = tuple(to_domain(row) for row in rows[:limit])
    return Page(items[::-1] if is_upwards else items, len(rows) > limit)


def own(table: Table, row_id: str, project_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """For a `where`: the row of this id, if it is this project's."""
    return table.c.id == row_id, table.c.project_id == project_id


def update_row(conn: Connection, table: Table, *where: ColumnElement[bool], **values: Any) -> Row[Any] | None:
    """The one row that is meant, changed where there are values. None: there is none."""
    if not values:
        return conn.execute(select(table).where(*where)).first()
    return conn.execute(update(table).where(*where).values(**values).returning(table)).first()


def values_of(row: Row[Any], *without: str, **converted: Any) -> dict[str, Any]:
    """The row by column name, ready for its dataclass: without `seq`, which is the store's own, and those named."""
    values: dict[Any, Any] = dict(mapping_of(row).items())
    for name in ("seq", *without):
        values.pop(name, None)
    return values | converted


def mapping_of(row: Row[Any]) -> RowMapping:
    """The row's values by column and by column's name."""
    return row._mapping  # pyright: ignore[reportPrivateUsage]  # SQLAlchemy's public way, of a name that no column has


def exists(conn: Connection, query: Select[Any]) -> bool:
    return conn.execute(select(query.exists())).scalar_one()


def holds_text(text: str, *columns: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether the text stands anywhere in one of the columns, in either case."""
    return or_(*(column.icontains(text, autoescape=True) for column in columns))


def has_pair(conn: Connection, column: ColumnElement[Any], key: str, value: str) -> ColumnElement[bool]:
    """Whether the JSON object in `column` holds the pair.

    Asks the object's list of pairs: a key may hold any character, which a JSON path may not.
    """
    expand = func.jsonb_each_text if conn.dialect.name == "postgresql" else func.json_each
    pairs = expand(column).table_valued("key", "value").alias("pairs")
    return select(pairs.c.key).where(pairs.c.key == key, pairs.c.value == value).exists()
