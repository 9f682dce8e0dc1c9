"""Who works on which export or import, on both databases."""

from sqlalchemy import Connection

from tests.store.conftest import NOW, Tenant
from tunery.domain.ids import new_id
from tunery.domain.transfers import Transfer, TransferKind, TransferStatus
from tunery.store import transfers


def make(conn: Connection, project_id: str, kind: TransferKind, created_at: int) -> str:
    made = Transfer(
        id=new_id(kind),
        project_id=project_id,
        created_at=created_at,
        kind=kind,
        status=TransferStatus.QUEUED,
        asked={},
        created_by=None,
        model=None,
    )
    transfers.insert_transfer(conn, made)
    return made.id


def test_projects_take_turns_and_each_kind_is_claimed_by_itself(conn: Connection, tenant: Tenant) -> None:
    mine = [make(conn, tenant.project_id, "export", NOW + number) for number in range(3)]
    other = make(conn, tenant.other_project_id, "export", NOW + 100)
    import_id = make(conn, tenant.project_id, "import", NOW)
    taken = []
    for kind in ("export", "export", "export", "import", "import"):
        found = transfers.claim_transfer(conn, kind, "w", now=NOW, lease_s=30)
        taken.append(None if found is None else (found.id, found.status, found.attempts))
    running = TransferStatus.RUNNING
    assert taken == [(mine[0], running, 1), (other, running, 1), (mine[1], running, 1), (import_id, running, 1), None]
    again = transfers.claim_transfer(conn, "export", "other", now=NOW + 31, lease_s=30)
    assert again is not None and again.attempts == (1 if again.id == mine[2] else 2)
