"""Exports, imports and bases that are fetched, and the lease of who works on one."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from tunery.domain.errors import InvalidTransition, NotFound
from tunery.domain.transfers import UNFINISHED, Transfer, TransferKind, TransferStatus
from tunery.store.leases import NO_WORKER, Leases
from tunery.store.paging import Page, fetch_page, own, update_row, values_of
from tunery.store.tables import transfers
from tunery.texts import say


def insert_transfer(conn: Connection, transfer: Transfer) -> None:
    conn.execute(insert(transfers).values(asdict(transfer)))


def get_transfer(conn: Connection, transfer_id: str, project_id: str, kind: TransferKind) -> Transfer:
    query = select(transfers).where(*own(transfers, transfer_id, project_id), transfers.c.kind == kind)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(
            say("error.no_such_transfer", transfer_id=transfer_id[:200]),
            param="addition_id" if kind == "base" else f"{kind}_id",
        )
    return _to_transfer(row)


def list_transfers(
    conn: Connection, project_id: str, kind: TransferKind, *, model: str | None = None, after: str | None, limit: int
) -> Page[Transfer]:
    """Newest first. `model`: only exports of this one."""
    query = select(transfers).where(transfers.c.project_id == project_id, transfers.c.kind == kind)
    if model is not None:
        query = query.where(transfers.c.model == model)
    return fetch_page(conn, query, transfers, _to_transfer, after=after, limit=limit)


def num_unfinished(conn: Connection, project_id: str) -> int:
    query = select(func.count()).select_from(transfers)
    return conn.execute(
        query.where(transfers.c.project_id == project_id, transfers.c.status.in_(UNFINISHED))
    ).scalar_one()


def cancel_transfer(conn: Connection, transfer_id: str, project_id: str, kind: TransferKind, now: float) -> Transfer:
    """→ cancelled: whoever works on it leaves off. Raises InvalidTransition when it has ended."""
    transfer = get_transfer(conn, transfer_id, project_id, kind)
    unfinished = transfers.c.id == transfer_id, transfers.c.status.in_(UNFINISHED)
    row = update_row(conn, transfers, *unfinished, **_ended(TransferStatus.CANCELLED, now))
    if row is None:
        raise InvalidTransition(say("error.transfer_has_ended", transfer_id=transfer_id, status=transfer.status))
    return _to_transfer(row)


# ---- for the worker


def claim_transfer(
    conn: Connection, kind: TransferKind, worker_id: str, *, now: float, lease_s: float
) -> Transfer | None:
    """One that nobody works on, for this worker, and its next attempt."""
    begun = {"status": TransferStatus.RUNNING, "attempts": transfers.c.attempts + 1}
    return LEASES.claim(conn, worker_id, now=now, lease_s=lease_s, only={"kind": kind}, values=begun)


def finish(
    conn: Connection, transfer_id: str, worker_id: str, status: TransferStatus, now: float, **values: Any
) -> bool:
    """False, and nothing is written: it is no longer this worker's."""
    mine = transfers.c.id == transfer_id, transfers.c.worker_id == worker_id
    return update_row(conn, transfers, *mine, **_ended(status, now), **values) is not None


def end_all(conn: Connection, project_id: str, now: float, error: dict[str, Any]) -> None:
    """Those of the project that have not ended fail: whoever works on one leaves off."""
    theirs = transfers.c.project_id == project_id, transfers.c.status.in_(UNFINISHED)
    conn.execute(update(transfers).where(*theirs).values(**_ended(TransferStatus.FAILED, now), error=error))


def _ended(status: TransferStatus, now: float) -> dict[str, Any]:
    return {"status": status, "finished_at": int(now), "progress": None, **NO_WORKER}


def _to_transfer(row: Row[Any]) -> Transfer:
    return Transfer(**values_of(row, *NO_WORKER, status=TransferStatus(row.status)))


LEASES = Leases(transfers, UNFINISHED, _to_transfer)
