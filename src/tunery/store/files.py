"""Files, and uploads that arrive in parts. The bytes lie in the blobs; these rows say whose they are."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from tunery.domain.errors import NotFound, no_such_file
from tunery.domain.files import File, FilePurpose, Upload, UploadPart
from tunery.store.file_tables import upload_parts, uploads
from tunery.store.paging import Page, fetch_page, holds_text, own, values_of
from tunery.store.tables import files
from tunery.texts import say


def insert_file(conn: Connection, file: File) -> None:
    conn.execute(insert(files).values(asdict(file)))


def find_file(conn: Connection, file_id: str, project_id: str) -> File | None:
    row = conn.execute(select(files).where(*own(files, file_id, project_id))).first()
    return None if row is None else _to_file(row)


def get_file(conn: Connection, file_id: str, project_id: str) -> File:
    file = find_file(conn, file_id, project_id)
    if file is None:
        raise no_such_file(file_id)
    return file


def list_files(
    conn: Connection,
    project_id: str,
    *,
    text: str = "",
    purpose: str | None = None,
    after: str | None = None,
    limit: int = 10_000,
    order: str = "desc",
) -> Page[File]:
    """`text` may stand anywhere in a file's name or id, in either case."""
    query = select(files).where(files.c.project_id == project_id)
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    if text:
        query = query.where(holds_text(text, files.c.filename, files.c.id))
    return fetch_page(conn, query, files, _to_file, after=after, limit=limit, descending=order != "asc")


def delete_file(conn: Connection, file_id: str, project_id: str) -> File:
    """The deleted row, whose blob the caller removes after the commit. Raises no_such_file."""
    row = conn.execute(delete(files).where(*own(files, file_id, project_id)).returning(files)).first()
    if row is None:
        raise no_such_file(file_id)
    return _to_file(row)


def expired_files(conn: Connection, now: float, limit: int = 100) -> tuple[File, ...]:
    query = select(files).where(files.c.expires_at <= int(now)).order_by(files.c.expires_at).limit(limit)
    return tuple(_to_file(row) for row in conn.execute(query))


def insert_upload(conn: Connection, upload: Upload) -> None:
    conn.execute(insert(uploads).values(asdict(upload)))


def get_upload(conn: Connection, upload_id: str, project_id: str) -> Upload:
    return _one_upload(conn, select(uploads).where(*own(uploads, upload_id, project_id)), upload_id)


def lock_upload(conn: Connection, upload_id: str, project_id: str) -> Upload:
    """The same; nobody else ends it or adds a part until the transaction ends."""
    query = select(uploads).where(*own(uploads, upload_id, project_id))
    return _one_upload(conn, query.with_for_update(), upload_id)


def _one_upload(conn: Connection, query: Select[Any], upload_id: str) -> Upload:
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(say("error.no_such_upload", upload_id=upload_id), param="id")
    return _to_upload(row)


def update_upload_status(
    conn: Connection,
    upload_id: str,
    status: str,
    *,
    file_id: str | None = None,
) -> bool:
    """False when the upload is pending no more: of two who complete it, one does."""
    done = conn.execute(
        update(uploads)
        .where(uploads.c.id == upload_id, uploads.c.status == "pending")
        .values(status=status, file_id=file_id)
    )
    return done.rowcount == 1


def expired_uploads(conn: Connection, now: float, limit: int = 100) -> tuple[Upload, ...]:
    """Still pending past their time; the caller removes the parts and marks them expired."""
    query = select(uploads).where(uploads.c.status == "pending", uploads.c.expires_at <= int(now)).limit(limit)
    return tuple(_to_upload(row) for row in conn.execute(query))


def insert_part(conn: Connection, part: UploadPart) -> None:
    conn.execute(insert(upload_parts).values(asdict(part)))


def sum_of_parts(conn: Connection, upload_id: str) -> tuple[int, int]:
    """How many parts of the upload are there, and how many bytes they have together."""
    query = select(func.count(), func.coalesce(func.sum(upload_parts.c.bytes), 0))
    number, num_bytes = conn.execute(query.where(upload_parts.c.upload_id == upload_id)).one()
    return number, int(num_bytes)


def list_parts(conn: Connection, upload_id: str) -> tuple[UploadPart, ...]:
    """In the order of arrival; the client's list at completion says the real one."""
    query = select(upload_parts).where(upload_parts.c.upload_id == upload_id).order_by(upload_parts.c.seq)
    return tuple(UploadPart(row.id, row.upload_id, row.created_at, row.bytes, row.blob) for row in conn.execute(query))


def delete_parts(conn: Connection, upload_id: str) -> None:
    conn.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload_id))


def _to_file(row: Row[Any]) -> File:
    return File(**values_of(row, purpose=FilePurpose(row.purpose), split_from=tuple(row.split_from or ())))


def _to_upload(row: Row[Any]) -> Upload:
    return Upload(**values_of(row, purpose=FilePurpose(row.purpose)))
