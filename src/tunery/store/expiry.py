"""What has expired goes: rows first, then bytes. A crash between leaves bytes that nobody names, never the reverse."""

from sqlalchemy import Engine

from tunery.store import files, responses
from tunery.store.blobs import Blobs
from tunery.store.database import write


def remove_expired(engine: Engine, blobs: Blobs, now: float) -> None:
    _files(engine, blobs, now)
    _uploads(engine, blobs, now)


def _files(engine: Engine, blobs: Blobs, now: float) -> None:
    while True:
        with write(engine) as conn:
            expired = files.expired_files(conn, now)
            for file in expired:
                files.delete_file(conn, file.id, file.project_id)
        for file in expired:
            blobs.delete(file.blob)
        if not expired:
            return


def _uploads(engine: Engine, blobs: Blobs, now: float) -> None:
    """Uploads that nobody completed in time: their parts go, the upload itself stays to be told as expired."""
    while True:
        with write(engine) as conn:
            expired = files.expired_uploads(conn, now)
            for upload in expired:
                files.update_upload_status(conn, upload.id, "expired")
                files.delete_parts(conn, upload.id)
        for upload in expired:
            blobs.delete_dir(f"uploads/{upload.id}")
        if not expired:
            return


def remove_old_responses(engine: Engine, created_before: float) -> None:
    """Responses with their items, but for what conversations hold."""
    is_done = False
    while not is_done:
        with write(engine) as conn:
            is_done = responses.delete_expired(conn, created_before) == 0
    with write(engine) as conn:
        responses.delete_stray_items(conn, created_before)
