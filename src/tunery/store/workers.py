"""Who works: each worker tells that it lives, so that /health can say so."""

from sqlalchemy import Connection, delete, func, insert, select, update

from tunery.store.tables import workers

FORGET_AFTER_S = 86_400


def worker_seen(conn: Connection, worker_id: str, host: str, now: float) -> None:
    if conn.execute(update(workers).where(workers.c.id == worker_id).values(seen_at=now)).rowcount == 0:
        conn.execute(delete(workers).where(workers.c.seen_at < now - FORGET_AFTER_S))
        conn.execute(insert(workers).values(id=worker_id, host=host, started_at=now, seen_at=now))


def worker_gone(conn: Connection, worker_id: str) -> None:
    conn.execute(delete(workers).where(workers.c.id == worker_id))


def count_workers(conn: Connection, *, seen_since: float) -> int:
    query = select(func.count()).select_from(workers).where(workers.c.seen_at >= seen_since)
    return conn.execute(query).scalar_one()
