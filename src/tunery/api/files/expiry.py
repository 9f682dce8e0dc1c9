"""Removes files and uploads whose time is over. Every api process does it; doing it twice does no harm."""

import asyncio
import logging

from tunery.api.services import Services
from tunery.domain.errors import NotFound
from tunery.store import files
from tunery.store.database import read, write

log = logging.getLogger(__name__)

EVERY_S = 60


async def sweep_for_ever(services: Services) -> None:
    while True:
        try:
            await asyncio.to_thread(sweep, services)
        except Exception:
            # The next round tries again; a database that is away for a minute must not end the sweeping.
            log.exception("expired files could not be removed")
        await asyncio.sleep(EVERY_S)


def sweep(services: Services) -> int:
    """The number of files and uploads that went."""
    now = services.clock()
    with read(services.engine) as conn:
        old_files, old_uploads = files.expired_files(conn, now), files.expired_uploads(conn, now)
    for file in old_files:
        try:
            with write(services.engine) as conn:
                files.delete_file(conn, file.id, file.project_id)
        except NotFound:
            continue  # somebody else was faster
        services.blobs.delete(file.blob)
    for upload in old_uploads:
        with write(services.engine) as conn:
            files.update_upload_status(conn, upload.id, "expired")
            files.delete_parts(conn, upload.id)
        services.blobs.delete_dir(f"uploads/{upload.id}")
    return len(old_files) + len(old_uploads)
