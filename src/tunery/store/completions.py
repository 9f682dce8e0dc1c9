"""Chat completions that a client asked to store."""

import json
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from tunery.domain.completions import StoredCompletion
from tunery.domain.errors import NotFound
from tunery.store.paging import Page, fetch_page, has_pair, own, update_row, values_of
from tunery.store.tables import stored_completions
from tunery.texts import say


def insert_completion(conn: Connection, completion: StoredCompletion) -> None:
    conn.execute(insert(stored_completions).values(asdict(completion) | {"bytes": num_bytes(completion)}))


def num_bytes(completion: StoredCompletion) -> int:
    """What it counts towards its project's storage: request and answer, as JSON."""
    return sum(len(json.dumps(part).encode()) for part in (completion.request, completion.response))


def get_completion(conn: Connection, completion_id: str, project_id: str) -> StoredCompletion:
    row = conn.execute(select(stored_completions).where(*own(stored_completions, completion_id, project_id))).first()
    if row is None:
        raise _no_such_completion(completion_id)
    return _to_completion(row)


def list_completions(
    conn: Connection,
    project_id: str,
    *,
    model: str | None = None,
    metadata: dict[str, str] | None = None,
    after: str | None = None,
    limit: int = 20,
    order: str = "asc",
) -> Page[StoredCompletion]:
    table = stored_completions
    query = select(table).where(table.c.project_id == project_id)
    if model is not None:
        query = query.where(table.c.model == model)
    query = query.where(*(has_pair(conn, table.c.metadata, key, value) for key, value in (metadata or {}).items()))
    return fetch_page(conn, query, table, _to_completion, after=after, limit=limit, descending=order == "desc")


def update_completion_metadata(
    conn: Connection, completion_id: str, project_id: str, metadata: dict[str, str] | None
) -> StoredCompletion:
    row = update_row(conn, stored_completions, *own(stored_completions, completion_id, project_id), metadata=metadata)
    if row is None:
        raise _no_such_completion(completion_id)
    return _to_completion(row)


def delete_completion(conn: Connection, completion_id: str, project_id: str) -> None:
    """Raises NotFound."""
    if (
        conn.execute(delete(stored_completions).where(*own(stored_completions, completion_id, project_id))).rowcount
        == 0
    ):
        raise _no_such_completion(completion_id)


def _no_such_completion(completion_id: str) -> NotFound:
    return NotFound(say("error.no_such_completion", completion_id=completion_id), param="completion_id")


def _to_completion(row: Row[Any]) -> StoredCompletion:
    return StoredCompletion(**values_of(row, "bytes"))
