from dataclasses import replace

import pytest
from sqlalchemy import Connection

from tests.store.conftest import NOW, Tenant
from tunery.domain.errors import NotFound
from tunery.domain.files import File, FilePurpose, Upload, UploadPart
from tunery.domain.ids import new_id
from tunery.store import files, storage


def make_file(conn: Connection, tenant: Tenant, **changes: object) -> File:
    ident = new_id("file")
    file = File(ident, tenant.project_id, NOW, "a.jsonl", FilePurpose.FINE_TUNE, 10, "00", f"files/{ident}")
    file = replace(file, **changes)
    files.insert_file(conn, file)
    return file


def make_upload(conn: Connection, tenant: Tenant) -> Upload:
    upload = Upload(
        new_id("upload"), tenant.project_id, NOW, NOW + 3600, "a.jsonl", FilePurpose.FINE_TUNE, 10, "text/jsonl"
    )
    files.insert_upload(conn, upload)
    return upload


def test_a_file_comes_back_as_it_was_stored(conn: Connection, tenant: Tenant) -> None:
    file = make_file(conn, tenant, expires_at=NOW + 9, status="error", status_details="no")
    assert files.get_file(conn, file.id, tenant.project_id) == file


def test_another_projects_file_does_not_exist(conn: Connection, tenant: Tenant) -> None:
    file = make_file(conn, tenant)
    for act in (files.get_file, files.delete_file):
        with pytest.raises(NotFound, match=f"No such File object: {file.id}"):
            act(conn, file.id, tenant.other_project_id)
    assert files.find_file(conn, file.id, tenant.project_id) == file


def test_files_are_listed_by_purpose_and_order(conn: Connection, tenant: Tenant) -> None:
    first, second = make_file(conn, tenant), make_file(conn, tenant)
    result = make_file(conn, tenant, purpose=FilePurpose.FINE_TUNE_RESULTS)
    down = files.list_files(conn, tenant.project_id)
    up = files.list_files(conn, tenant.project_id, order="asc", limit=2)
    assert [file.id for file in down.items] == [result.id, second.id, first.id]
    assert [file.id for file in up.items] == [first.id, second.id] and up.has_more
    rest = files.list_files(conn, tenant.project_id, order="asc", after=second.id)
    assert [file.id for file in rest.items] == [result.id]
    assert files.list_files(conn, tenant.project_id, purpose="fine-tune-results").items == (result,)


def test_a_file_is_deleted_once(conn: Connection, tenant: Tenant) -> None:
    file = make_file(conn, tenant)
    assert files.delete_file(conn, file.id, tenant.project_id).blob == file.blob
    with pytest.raises(NotFound):
        files.delete_file(conn, file.id, tenant.project_id)


def test_files_whose_time_is_over_are_found(conn: Connection, tenant: Tenant) -> None:
    make_file(conn, tenant)
    make_file(conn, tenant, expires_at=NOW + 10)
    over = make_file(conn, tenant, expires_at=NOW)
    assert files.expired_files(conn, NOW + 0.5) == (over,)


def test_stored_bytes_are_summed_by_project(conn: Connection, tenant: Tenant) -> None:
    assert storage.stored_bytes(conn, tenant.project_id).total == 0
    make_file(conn, tenant, bytes=5_000_000_000)
    make_file(conn, tenant, bytes=7)
    make_file(conn, tenant, project_id=tenant.other_project_id)
    assert storage.stored_bytes(conn, tenant.project_id).files == 5_000_000_007


def test_parts_come_in_the_order_of_arrival(conn: Connection, tenant: Tenant) -> None:
    upload = make_upload(conn, tenant)
    parts = tuple(UploadPart(new_id("part"), upload.id, NOW, 5, f"uploads/{upload.id}/{index}") for index in range(3))
    for part in parts:
        files.insert_part(conn, part)
    assert files.list_parts(conn, upload.id) == parts
    files.delete_parts(conn, upload.id)
    assert files.list_parts(conn, upload.id) == ()


def test_of_two_who_complete_an_upload_one_does(conn: Connection, tenant: Tenant) -> None:
    upload = make_upload(conn, tenant)
    assert files.update_upload_status(conn, upload.id, "completed", file_id="file-1")
    assert not files.update_upload_status(conn, upload.id, "cancelled")
    done = files.get_upload(conn, upload.id, tenant.project_id)
    assert (done.status, done.file_id) == ("completed", "file-1")
    with pytest.raises(NotFound):
        files.get_upload(conn, upload.id, tenant.other_project_id)


def test_pending_uploads_expire(conn: Connection, tenant: Tenant) -> None:
    upload = make_upload(conn, tenant)
    assert files.expired_uploads(conn, NOW + 3599) == ()
    assert files.expired_uploads(conn, NOW + 3600) == (upload,)
    files.update_upload_status(conn, upload.id, "expired")
    assert files.expired_uploads(conn, NOW + 3600) == ()
