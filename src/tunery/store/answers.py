"""Stored completions and stored responses as one list: what a project's models answered, through either API."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, String, Subquery, Table, func, literal, select, union_all

from tunery.store.paging import Page, fetch_page, has_pair
from tunery.store.storage import stored_bytes
from tunery.store.tables import responses, stored_completions

Api = Literal["chat", "responses"]
TABLES: dict[Api, Table] = {"chat": stored_completions, "responses": responses}
DAY_S = 86_400


@dataclass(frozen=True)
class Wanted:
    """Which answers of a project; what is None or empty excludes none."""

    api: Api | None = None
    model: str | None = None
    since: int | None = None  # Unix seconds
    until: int | None = None  # not included
    metadata: dict[str, str] = field(default_factory=dict[str, str])


class Listed(NamedTuple):
    id: str
    api: Api
    created_at: int
    model: str


class Count(NamedTuple):
    """Of one model on one day."""

    model: str
    day: int  # its first second, UTC
    num_answers: int


def list_answers(
    conn: Connection, project_id: str, wanted: Wanted, *, after: str | None = None, limit: int = 20
) -> Page[Listed]:
    """The newest first."""
    every = _every(conn, project_id, wanted)
    query: Any = select(every.c.id, every.c.api, every.c.created_at, every.c.model)
    order = every.c.created_at, every.c.api, every.c.seq
    return fetch_page(conn, query, every, lambda row: Listed(*row), after=after, limit=limit, order=order)


def count_answers(conn: Connection, project_id: str, wanted: Wanted) -> list[Count]:
    every = _every(conn, project_id, wanted)
    day = (every.c.created_at // DAY_S).label("day")
    query = select(every.c.model, day, func.count()).group_by(every.c.model, day).order_by(day)
    return [Count(model, at * DAY_S, number) for model, at, number in conn.execute(query)]


def estimated_bytes(conn: Connection, project_id: str, wanted: Wanted, most: int | None = None) -> int:
    """Of what is stored of these answers, or of `most` of them, as if all were equally long."""
    stored = stored_bytes(conn, project_id)
    chosen, all_ = (
        sum(one.num_answers for one in count_answers(conn, project_id, which)) for which in (wanted, Wanted())
    )
    chosen = chosen if most is None else min(most, all_)
    return (stored.completions + stored.responses) * chosen // max(1, all_)


def _every(conn: Connection, project_id: str, wanted: Wanted) -> Subquery:
    """Only columns that lie before what was said: SQLite reads a long row up to the last column that is asked for."""
    parts = [
        select(table.c.id, literal(api, String).label("api"), table.c.created_at, table.c.seq, table.c.model).where(
            table.c.project_id == project_id, *_conditions(conn, table, wanted)
        )
        for api, table in TABLES.items()
        if wanted.api in (None, api)
    ]
    return union_all(*parts).subquery("answers")


def _conditions(conn: Connection, table: Table, wanted: Wanted) -> list[Any]:
    conditions: list[Any] = [has_pair(conn, table.c.metadata, *pair) for pair in wanted.metadata.items()]
    if wanted.model is not None:
        conditions.append(table.c.model == wanted.model)
    if wanted.since is not None:
        conditions.append(table.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(table.c.created_at < wanted.until)
    return conditions
