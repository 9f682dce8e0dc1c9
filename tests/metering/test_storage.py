"""Room for what arrives, on SQLite and on Postgres."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from tests.metering.conftest import NOW
from tests.store.conftest import MakeJob, Tenant
from tests.store.test_files import make_file, make_upload
from tunery.domain.audit import EventType
from tunery.domain.errors import InvalidRequest
from tunery.domain.files import UploadPart
from tunery.domain.job_details import JobDetails, SavedState
from tunery.domain.jobs import JobStatus
from tunery.domain.tenants import Caller, Role
from tunery.metering.storage import STEP_BYTES, Room, check_storage
from tunery.settings import Settings
from tunery.store import audit, files, models, outbox, storage
from tunery.store.blobs import Blobs
from tunery.store.database import read, write


def make_room(database: Engine, tenant: Tenant, folder: Path, limit: int, most: int | None = None) -> Room:
    settings = Settings(max_storage_bytes=limit)
    return Room(database, Blobs.in_folder(folder), settings, lambda: NOW, tenant.project_id, "file", most)


def test_files_and_parts_and_what_arrives_count(database: Engine, tenant: Tenant) -> None:
    settings = Settings(max_storage_bytes=100)
    with write(database) as conn:
        make_file(conn, tenant, bytes=30)
        make_file(conn, tenant, bytes=99, project_id=tenant.other_project_id)
        upload = make_upload(conn, tenant)
        files.insert_part(conn, UploadPart("part_1", upload.id, NOW, 20, "b"))
        storage.reserve(conn, "r", tenant.project_id, 10, until=NOW + 1)
        check_storage(conn, settings, tenant.project_id, 40, now=NOW, param="file")
        with pytest.raises(InvalidRequest, match="stores 50 of 100 bytes, and 10 more are arriving"):
            check_storage(conn, settings, tenant.project_id, 41, now=NOW, param="file")
        check_storage(conn, settings, tenant.project_id, 50, now=NOW, param="file", own="r")
        assert storage.stored_bytes(conn, tenant.project_id).total == 50


@pytest.mark.parametrize(
    ("values", "counted"),
    [
        ({"status": JobStatus.RUNNING}, True),
        ({"status": JobStatus.PAUSED}, True),
        ({"status": JobStatus.FAILED, "finished_at": NOW, "resumable": True}, True),
        ({"status": JobStatus.FAILED, "finished_at": NOW}, False),
        ({"status": JobStatus.SUCCEEDED, "finished_at": NOW}, False),
    ],
)
def test_the_states_of_jobs_that_can_go_on_count(
    database: Engine, tenant: Tenant, make_job: MakeJob, values: dict[str, Any], counted: bool
) -> None:
    size = 3 * 2**40
    with write(database) as conn:
        make_job(conn, details=JobDetails(state=SavedState(4, "jobs/x/state/step-4", size)), **values)
        make_job(
            conn, details=JobDetails(state=SavedState(4, "jobs/y/state/step-4"))
        )  # of a version that did not count
        make_job(conn, project_id=tenant.other_project_id, details=JobDetails(state=SavedState(1, "z", 7)))
        assert storage.stored_bytes(conn, tenant.project_id).total == (size if counted else 0)


def many_files(conn: Connection, tenant: Tenant, make_job: MakeJob) -> int:
    for _ in range(3):
        make_file(conn, tenant, bytes=0)
    return 3 * 9


def many_uploads(conn: Connection, tenant: Tenant, make_job: MakeJob) -> int:
    for _ in range(12):
        make_upload(conn, tenant)
    return 12


def many_messages(conn: Connection, tenant: Tenant, make_job: MakeJob) -> int:
    for _ in range(12):
        outbox.insert_outbox(conn, "webhook", "t", {}, project_id=tenant.project_id, now=NOW)
    return 12


def many_changes(conn: Connection, tenant: Tenant, make_job: MakeJob) -> int:
    for number in range(12):
        models.set_alias(conn, tenant.project_id, "a", f"m{number}", now=NOW, reason="", changed_by=None)
    return 12


def many_steps(conn: Connection, tenant: Tenant, make_job: MakeJob) -> int:
    make_job(conn, step=5)
    make_job(conn, step=6, status=JobStatus.SUCCEEDED, finished_at=NOW)
    return 11


def many_audited_acts(conn: Connection, tenant: Tenant, make_job: MakeJob) -> int:
    """Of which one changes nothing that lies elsewhere, however often it is done."""
    caller = Caller("key_1", tenant.organization_id, tenant.project_id, None, Role.MEMBER)
    types: tuple[EventType, ...] = ("conversation.updated", "model.renamed", "file.deleted")
    for type in types * 4:
        audit.record(conn, caller, type, now=NOW, resource_id="x")
    return 12


@pytest.mark.parametrize("fill", [many_files, many_uploads, many_messages, many_changes, many_audited_acts, many_steps])
def test_what_is_small_counts_when_it_is_very_many(
    database: Engine, tenant: Tenant, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, fill: Callable[..., int]
) -> None:
    with write(database) as conn:
        number = fill(conn, tenant, make_job)
        assert storage.stored_bytes(conn, tenant.project_id).total == 0
        monkeypatch.setattr(storage, "NUM_FREE_ROWS", 10)
        assert storage.stored_bytes(conn, tenant.project_id).total == (number - 10) * storage.ROW_BYTES
        assert storage.stored_bytes(conn, tenant.other_project_id).total == 0
        with pytest.raises(InvalidRequest, match="do not fit"):
            check_storage(conn, Settings(max_storage_bytes=100), tenant.project_id, 1, now=NOW, param="file")


def test_requests_at_once_share_what_is_free(database: Engine, tenant: Tenant, tmp_path: Path) -> None:
    """Eight writers of which three fit: whoever is let in to the end has its bytes, and never do more than fit."""
    size, limit = 64 * 1024, 4 * 1024 * 1024
    kept: list[int] = []
    start = threading.Barrier(8)

    def write_one() -> None:
        with make_room(database, tenant, tmp_path, limit) as room:
            start.wait(60)
            num_bytes = sum(len(chunk) for chunk in room.let_in(bytes(size) for _ in range(16)))
            with write(database) as conn:
                room.settle(conn, num_bytes)
                make_file(conn, tenant, bytes=num_bytes)
            kept.append(num_bytes)

    threads = [threading.Thread(target=guarded, args=(write_one,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with read(database) as conn:
        assert storage.stored_bytes(conn, tenant.project_id).files == sum(kept) <= limit
        assert storage.reserved_bytes(conn, tenant.project_id, now=NOW) == 0
    assert kept


def guarded(work) -> None:
    try:
        work()
    except InvalidRequest as error:
        assert error.code == "storage_limit_exceeded"


@pytest.mark.parametrize("most", [None, 3 * STEP_BYTES // 2])
def test_room_is_taken_a_step_ahead_and_not_beyond_the_requests_length(
    database: Engine, tenant: Tenant, tmp_path: Path, most: int | None
) -> None:
    with make_room(database, tenant, tmp_path, 10 * STEP_BYTES, most) as room:
        for taken, expected in ((1, STEP_BYTES), (STEP_BYTES, most or 2 * STEP_BYTES)):
            room.take(taken)
            with read(database) as conn:
                assert storage.reserved_bytes(conn, tenant.project_id, now=NOW) == expected


def test_nothing_is_written_to_the_database_without_a_limit(database: Engine, tenant: Tenant, tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a" * (2 * STEP_BYTES)

    with make_room(database, tenant, tmp_path, 0) as room:
        assert sum(map(len, room.let_in(pieces()))) == 2 * STEP_BYTES
        with read(database) as conn:
            assert storage.reserved_bytes(conn, tenant.project_id, now=NOW) == 0
