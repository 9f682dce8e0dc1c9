"""Who works on which batch, and what came of it, on both databases."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from tests.store.conftest import NOW, Tenant
from tunery.domain.batches import Batch, BatchResult, BatchStatus
from tunery.domain.errors import InvalidTransition
from tunery.domain.files import File, FilePurpose
from tunery.domain.ids import new_id
from tunery.store import batches, files
from tunery.store.database import write
from tunery.store.leases import OF_PROJECT
from tunery.store.storage import stored_bytes

LEASE: dict[str, Any] = {"now": float(NOW), "lease_s": 30.0}


def make(conn: Connection, tenant: Tenant, **values: Any) -> Batch:
    batch = Batch(
        id=new_id("batch"),
        project_id=tenant.project_id,
        created_at=NOW,
        status=BatchStatus.VALIDATING,
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        expires_at=NOW + 86_400,
        api_key_id="key_1",
        created_by=None,
    )
    batches.insert_batch(conn, replace(batch, **values))
    return replace(batch, **values)


def claim(conn: Connection, worker: str = "w") -> str | None:
    found = batches.LEASES.claim(conn, worker, **LEASE)
    return None if found is None else found.id


def test_projects_take_turns_and_each_has_a_bound(conn: Connection, tenant: Tenant) -> None:
    mine = [make(conn, tenant, created_at=NOW + number).id for number in range(6)]
    other = make(conn, tenant, project_id=tenant.other_project_id, created_at=NOW + 100).id
    taken = [claim(conn) for _ in range(7)]
    assert taken == [mine[0], other, *mine[1:OF_PROJECT], None, None]


def test_a_batch_comes_back_when_its_worker_is_silent_or_dead(conn: Connection, tenant: Tenant) -> None:
    batch = make(conn, tenant)
    assert claim(conn, "first") == batch.id
    assert claim(conn, "second") is None
    assert batches.LEASES.claim(conn, "second", now=NOW + 31, lease_s=30) is not None
    assert batches.LEASES.renew(conn, batch.id, "first", until=NOW + 60) is None
    assert not batches.add_result(conn, batch.id, "first", BatchResult(1, "{}", False))
    assert batches.end_batch(conn, batch.id, "first", BatchStatus.COMPLETED, NOW) is None
    assert batches.LEASES.list_holders(conn) == ("second",)
    batches.LEASES.free(conn, "second")
    assert claim(conn, "third") == batch.id


def test_results_count_and_are_read_in_the_order_of_lines(conn: Connection, tenant: Tenant) -> None:
    batch = make(conn, tenant)
    claim(conn)
    before = stored_bytes(conn, tenant.project_id).batches
    for line in (5, 2, 9):
        batches.add_result(conn, batch.id, "w", BatchResult(line, "é" * line, line == 5, 3, 1, 2))
    assert batches.answered_lines(conn, batch.id) == {2, 5, 9}
    assert [each.line for each in batches.results(conn, batch.id, is_failed=False)] == [2, 9]
    found = batches.get_batch(conn, batch.id, tenant.project_id)
    assert (found.num_completed, found.num_failed, found.input_tokens, found.output_tokens) == (2, 1, 9, 6)
    assert stored_bytes(conn, tenant.project_id).batches - before == 2 * 16


def test_the_end_has_its_files_and_leaves_no_results(conn: Connection, tenant: Tenant) -> None:
    batch = make(conn, tenant)
    claim(conn)
    batches.advance(conn, batch.id, "w", BatchStatus.IN_PROGRESS, NOW, num_requests=1)
    batches.add_result(conn, batch.id, "w", BatchResult(1, "{}", False))
    file = File("file-o", tenant.project_id, NOW, "o.jsonl", FilePurpose.BATCH_OUTPUT, 3, "0" * 64, "files/file-o")
    ended = batches.end_batch(conn, batch.id, "w", BatchStatus.COMPLETED, NOW + 5, output=file)
    assert ended is not None
    assert (ended.status, ended.output_file_id, ended.completed_at) == ("completed", "file-o", NOW + 5)
    assert files.get_file(conn, "file-o", tenant.project_id) == file
    assert batches.answered_lines(conn, batch.id) == set()
    assert claim(conn) is None
    with pytest.raises(InvalidTransition):
        batches.cancel_batch(conn, batch.id, tenant.project_id, NOW)


@pytest.mark.parametrize("reached", [BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING])
def test_a_cancel_is_not_lost_to_the_worker(database: Engine, tenant: Tenant, reached: BatchStatus) -> None:
    with write(database) as conn:
        batch = make(conn, tenant)
        claim(conn)
        assert batches.cancel_batch(conn, batch.id, tenant.project_id, NOW).status == "cancelling"
    with write(database) as conn:
        batches.advance(conn, batch.id, "w", reached, NOW)
        assert batches.get_batch(conn, batch.id, tenant.project_id).status == "cancelling"
        ended = batches.end_batch(conn, batch.id, "w", BatchStatus.COMPLETED, NOW)
    assert ended is not None and (ended.status, ended.cancelled_at, ended.completed_at) == ("cancelled", NOW, None)
