"""How many bytes a project stores, and how many more it has been promised while they arrive."""

import hashlib
from dataclasses import astuple, dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, Select, delete, func, select

from tunery.store.database import lock_across_processes
from tunery.store.eval_tables import eval_output_items, eval_runs, evals
from tunery.store.file_tables import upload_parts, uploads
from tunery.store.tables import (
    alias_changes,
    audit_log,
    batch_results,
    batches,
    conversations,
    files,
    jobs,
    models,
    outbox,
    response_items,
    responses,
    storage_reservations,
    stored_completions,
    transfers,
    webhook_endpoints,
)
from tunery.store.upsert import insert_or

ROW_BYTES = 512  # of one more row, roughly
NUM_FREE_ROWS = 100_000
ROWS_OF_A_FILE = 8  # its blob takes at least a block of the disk


@dataclass(frozen=True)
class Stored:
    """Bytes by where they lie."""

    files: int  # of every purpose: results of jobs and reports too
    upload_parts: int  # of uploads that have not ended
    completions: int
    models: int  # adapters, checkpoints that can be used included
    responses: int  # with their events, and the items of conversations
    batches: int  # what came of requests of batches that have not ended
    evals: int  # with their runs' rows, and what came of them
    states: int  # of jobs that have not ended or can be resumed
    records: int  # what is small by itself and very many: see `_rows`

    @property
    def total(self) -> int:
        return sum(astuple(self))


def stored_bytes(conn: Connection, project_id: str) -> Stored:
    parts = select(func.sum(upload_parts.c.bytes)).join(uploads, uploads.c.id == upload_parts.c.upload_id)
    results = select(func.sum(batch_results.c.bytes)).join(batches, batches.c.id == batch_results.c.batch_id)
    state = jobs.c.details["state"]["num_bytes"].as_string().cast(BigInteger)
    goes_on = jobs.c.finished_at.is_(None) | jobs.c.resumable
    return Stored(
        _sum(conn, select(func.sum(files.c.bytes)).where(files.c.project_id == project_id)),
        _sum(conn, parts.where(uploads.c.project_id == project_id)),
        _sum(conn, select(func.sum(stored_completions.c.bytes)).where(stored_completions.c.project_id == project_id)),
        _sum(conn, select(func.sum(models.c.num_bytes)).where(models.c.project_id == project_id)),
        sum(
            _sum(conn, select(func.sum(table.c.bytes)).where(table.c.project_id == project_id))
            for table in (responses, response_items)
        ),
        _sum(conn, results.where(batches.c.project_id == project_id)),
        sum(
            _sum(conn, select(func.sum(table.c.bytes)).where(table.c.project_id == project_id))
            for table in (evals, eval_runs, eval_output_items)
        ),
        _sum(conn, select(func.sum(state)).where(jobs.c.project_id == project_id, goes_on)),
        max(0, _rows(conn, project_id) - NUM_FREE_ROWS) * ROW_BYTES,
    )


def _rows(conn: Connection, project_id: str) -> int:
    """Of what has no size of its own, so that a million empty files, or acts, are not for nothing."""
    own = (files, uploads, webhook_endpoints, alias_changes, outbox, conversations, batches, transfers, evals)
    tables = (*own, audit_log)
    numbers = [_sum(conn, select(func.count()).where(table.c.project_id == project_id)) for table in tables]
    events = _sum(conn, select(func.sum(jobs.c.step)).where(jobs.c.project_id == project_id))  # one a step
    return sum(numbers) + numbers[0] * ROWS_OF_A_FILE + events


def lock_storage(conn: Connection, project_id: str) -> None:
    """Until the transaction ends nobody else takes of the project's storage: of two who find room, one may use it."""
    digest = hashlib.sha256(f"storage {project_id}".encode()).digest()
    lock_across_processes(conn, int.from_bytes(digest[:8], signed=True))


def reserved_bytes(conn: Connection, project_id: str, *, now: float, without: str = "") -> int:
    """Promised to requests that are writing, but for the one with the id `without`."""
    table = storage_reservations
    query = select(func.sum(table.c.bytes)).where(table.c.project_id == project_id, table.c.id != without)
    return _sum(conn, query.where(table.c.expires_at > int(now)))


def reserve(conn: Connection, reservation_id: str, project_id: str, num_bytes: int, *, until: float) -> None:
    row = {"bytes": num_bytes, "expires_at": int(until)}
    statement = insert_or(conn, storage_reservations).values(id=reservation_id, project_id=project_id, **row)
    conn.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))


def give_back(conn: Connection, reservation_id: str) -> None:
    conn.execute(delete(storage_reservations).where(storage_reservations.c.id == reservation_id))


def forget_reservations(conn: Connection, now: float) -> None:
    """Those whose request ended without giving them back: its process was killed."""
    conn.execute(delete(storage_reservations).where(storage_reservations.c.expires_at <= int(now)))


def _sum(conn: Connection, query: Select[Any]) -> int:
    return int(conn.execute(query).scalar_one() or 0)
