"""A create that a client repeats because its reply was lost: the key leads to the job made the first time.

Apart because it is a table of its own.
"""

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from tunery.domain.errors import InvalidRequest
from tunery.store.tables import idempotency_keys
from tunery.texts import say


def find_job_id(conn: Connection, project_id: str, key: str, request_hash: str) -> str | None:
    """Raises InvalidRequest when the key came with another request before."""
    table = idempotency_keys
    row = conn.execute(select(table).where(table.c.project_id == project_id, table.c.key == key)).first()
    if row is None:
        return None
    if row.request_hash != request_hash:
        raise InvalidRequest(say("error.idempotency_key_reused"), code="idempotency_error")
    return row.job_id


def remember_job(conn: Connection, project_id: str, key: str, *, request_hash: str, job_id: str, now: float) -> bool:
    """False when another request with the key was faster: roll back, and take that one's job."""
    values = {
        "project_id": project_id,
        "key": key,
        "request_hash": request_hash,
        "job_id": job_id,
        "created_at": int(now),
    }
    try:
        with conn.begin_nested():
            conn.execute(insert(idempotency_keys).values(values))
    except IntegrityError:
        return False
    return True
