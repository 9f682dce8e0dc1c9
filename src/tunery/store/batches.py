"""Batches, the lease of who works on one, and what came of its requests until it lies in files."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, case, delete, func, insert, select, update

from tunery.domain.batches import UNFINISHED, Batch, BatchResult, BatchStatus
from tunery.domain.errors import InvalidTransition, NotFound
from tunery.domain.files import File
from tunery.store.files import insert_file
from tunery.store.leases import NO_WORKER, Leases
from tunery.store.paging import Page, fetch_page, own, update_row, values_of
from tunery.store.tables import batch_results, batches
from tunery.texts import say

AT_ONCE = 1_000  # results that are read together

Json = dict[str, Any]


def insert_batch(conn: Connection, batch: Batch) -> None:
    conn.execute(insert(batches).values(asdict(batch)))


def get_batch(conn: Connection, batch_id: str, project_id: str) -> Batch:
    row = conn.execute(select(batches).where(*own(batches, batch_id, project_id))).first()
    if row is None:
        raise NotFound(say("error.no_such_batch", batch_id=batch_id[:200]), param="batch_id")
    return _to_batch(row)


def list_batches(conn: Connection, project_id: str, *, after: str | None, limit: int) -> Page[Batch]:
    """Newest first."""
    query = select(batches).where(batches.c.project_id == project_id)
    return fetch_page(conn, query, batches, _to_batch, after=after, limit=limit)


def cancel_batch(conn: Connection, batch_id: str, project_id: str, now: float) -> Batch:
    """→ cancelling, and who works on it ends it. Again: no change. Raises InvalidTransition when it has ended."""
    batch = get_batch(conn, batch_id, project_id)
    values = {"status": BatchStatus.CANCELLING, "cancelling_at": func.coalesce(batches.c.cancelling_at, int(now))}
    row = update_row(conn, batches, batches.c.id == batch_id, batches.c.status.in_(UNFINISHED), **values)
    if row is None:
        raise InvalidTransition(say("error.batch_has_ended", batch_id=batch_id, status=batch.status))
    return _to_batch(row)


def unfinished_on(conn: Connection, names: Sequence[str]) -> list[str]:
    """Of all projects: the ids of those that ask a model by one of these names and have not ended."""
    query = select(batches.c.id).where(batches.c.model.in_(names), batches.c.status.in_(UNFINISHED))
    return list(conn.execute(query).scalars())


# ---- for the worker


def advance(conn: Connection, batch_id: str, worker_id: str, status: BatchStatus, now: float, **values: Any) -> None:
    """→ in_progress or finalizing; one that is to be cancelled stays so."""
    stays = batches.c.status == BatchStatus.CANCELLING
    reached = {f"{status}_at": func.coalesce(batches.c[f"{status}_at"], int(now))}
    mine = batches.c.id == batch_id, batches.c.worker_id == worker_id
    status_now = case((stays, batches.c.status), else_=status.value)
    conn.execute(update(batches).where(*mine).values(status=status_now, **reached, **values))


def end_batch(
    conn: Connection,
    batch_id: str,
    worker_id: str,
    status: BatchStatus,
    now: float,
    *,
    output: File | None = None,
    error: File | None = None,
    errors: list[Json] | None = None,
) -> Batch | None:
    """With the files that hold what came of it. One that is to be cancelled and would be completed is cancelled. None:
    it is no longer this worker's, and nothing is written."""
    mine = batches.c.id == batch_id, batches.c.worker_id == worker_id, batches.c.status.in_(UNFINISHED)
    row = conn.execute(select(batches.c.status).where(*mine).with_for_update()).first()
    if row is None:
        return None
    if row.status == BatchStatus.CANCELLING and status is BatchStatus.COMPLETED:
        status = BatchStatus.CANCELLED
    values: Json = {"status": status, f"{status}_at": int(now), "errors": errors or [], **NO_WORKER}
    for name, file in (("output_file_id", output), ("error_file_id", error)):
        values[name] = None if file is None else file.id
        if file is not None:
            insert_file(conn, file)
    row = update_row(conn, batches, *mine, **values)
    conn.execute(delete(batch_results).where(batch_results.c.batch_id == batch_id))
    return None if row is None else _to_batch(row)


def add_result(conn: Connection, batch_id: str, worker_id: str, result: BatchResult) -> bool:
    """Once for each line. False, and nothing is written, when the batch is no longer this worker's."""
    table = batches
    added = {
        "num_failed" if result.is_failed else "num_completed": 1,
        **{name: getattr(result, name) for name in ("input_tokens", "cached_tokens", "output_tokens")},
    }
    values = {"batch_id": batch_id, "line": result.line, "is_failed": result.is_failed, "content": result.content}
    row = values | {"bytes": len(result.content.encode())}
    held = conn.execute(
        update(table)
        .where(table.c.id == batch_id, table.c.worker_id == worker_id)
        .values({name: table.c[name] + number for name, number in added.items()})
    )
    if held.rowcount:
        conn.execute(insert(batch_results).values(row))
    return bool(held.rowcount)


def answered_lines(conn: Connection, batch_id: str) -> set[int]:
    """Those of the input file that need not be asked again."""
    rows = conn.execute(select(batch_results.c.line).where(batch_results.c.batch_id == batch_id))
    return {row.line for row in rows}


def results(conn: Connection, batch_id: str, *, is_failed: bool) -> Iterator[BatchResult]:
    """In the order of the lines, read piece by piece."""
    table = batch_results
    query = select(table).where(table.c.batch_id == batch_id, table.c.is_failed == is_failed)
    last = 0
    while rows := conn.execute(query.where(table.c.line > last).order_by(table.c.line).limit(AT_ONCE)).all():
        for row in rows:
            yield BatchResult(row.line, row.content, row.is_failed)
        last = rows[-1].line


def _to_batch(row: Row[Any]) -> Batch:
    return Batch(**values_of(row, *NO_WORKER, status=BatchStatus(row.status)))


LEASES = Leases(batches, UNFINISHED, _to_batch)
