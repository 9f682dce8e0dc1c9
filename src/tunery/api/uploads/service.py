"""Policy of the Uploads API. Parts may come in any order and in parallel; completion fixes their order."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tunery.api.files.service import Received, as_file, blob_path, receive
from tunery.api.multipart import Event, PartHead, field_text, file_chunks
from tunery.api.services import Services
from tunery.api.uploads.schemas import UploadCreate
from tunery.domain.errors import InvalidRequest
from tunery.domain.files import MAX_PART_BYTES, File, FilePurpose, Upload, UploadPart
from tunery.domain.ids import new_id
from tunery.domain.tenants import Caller
from tunery.metering import limits
from tunery.store import files as store
from tunery.store import tenants
from tunery.store.blobs import NoSuchBlob
from tunery.store.database import read, write
from tunery.texts import say

LIFETIME_S = 3600


def create_upload(services: Services, caller: Caller, body: UploadCreate) -> Upload:
    now = services.now()
    upload = Upload(
        id=new_id("upload"),
        project_id=caller.project_id,
        created_at=now,
        expires_at=now + LIFETIME_S,
        filename=body.filename,
        purpose=FilePurpose(body.purpose),
        bytes=body.bytes,
        mime_type=body.mime_type,
        file_expires_after_s=body.expires_after.seconds if body.expires_after else None,
    )
    with write(services.engine) as conn:
        tenants.get_active_project(conn, caller.project_id)
        store.insert_upload(conn, upload)
    return upload


def pending(services: Services, caller: Caller, upload_id: str) -> Upload:
    """The upload, which must still take parts. Raises NotFound, or InvalidRequest in any other state."""
    with read(services.engine) as conn:
        upload = store.get_upload(conn, upload_id, caller.project_id)
    if upload.status == "pending" and upload.expires_at <= services.now():
        upload = replace(upload, status="expired")
    if upload.status != "pending":
        raise InvalidRequest(say("error.upload_can_no_longer_be", upload_id=upload_id, status=upload.status))
    return upload


def add_part(services: Services, caller: Caller, upload_id: str, events: Iterator[Event]) -> UploadPart:
    pending(services, caller, upload_id)
    part_id = new_id("part")
    blob = f"uploads/{upload_id}/{part_id}"
    size: int | None = None
    for event in events:
        if isinstance(event, PartHead) and event.name == "data" and size is None:
            size = services.blobs.put(blob, file_chunks(events)).bytes
        elif isinstance(event, PartHead):
            field_text(events)
    if size is None:
        raise InvalidRequest(say("error.data_required_property"), param="data", code="missing_required_parameter")
    if size > MAX_PART_BYTES:
        services.blobs.delete(blob)
        raise InvalidRequest(say("error.part_may_have_at_most", most=MAX_PART_BYTES // 1024**2), param="data")
    part = UploadPart(id=part_id, upload_id=upload_id, created_at=services.now(), bytes=size, blob=blob)
    with write(services.engine) as conn:
        store.insert_part(conn, part)
    return part


def complete(
    services: Services, caller: Caller, upload_id: str, *, part_ids: list[str], md5: str | None
) -> tuple[Upload, File]:
    """Join the named parts in that order. The upload stays pending when they are not what was announced."""
    upload = pending(services, caller, upload_id)
    parts = ordered_parts(services, upload, part_ids)
    try:
        received, digest = join(services, upload, parts)
    except NoSuchBlob:
        pending(services, caller, upload_id)  # another request completed it meanwhile, and the parts are gone
        raise
    try:
        if md5 is not None and md5.lower() != digest:
            raise InvalidRequest(
                say("error.content_md5_but_request_says", digest=digest, md5=md5), param="md5", code="invalid_value"
            )
        file = as_file(services, caller, received, upload.purpose, upload.file_expires_after_s)
        finish(services, upload, "completed", file)
    except BaseException:
        services.blobs.delete(blob_path(received.file_id))
        raise
    return replace(upload, status="completed", file_id=file.id), file


def ordered_parts(services: Services, upload: Upload, part_ids: list[str]) -> list[UploadPart]:
    with read(services.engine) as conn:
        known = {part.id: part for part in store.list_parts(conn, upload.id)}
    if unknown := [part_id for part_id in part_ids if part_id not in known]:
        raise InvalidRequest(
            say("error.upload_has_no_part", id=upload.id, unknown=unknown[0]), param="part_ids", code="invalid_value"
        )
    if len(set(part_ids)) != len(part_ids):
        raise InvalidRequest(say("error.part_named_twice"), param="part_ids", code="invalid_value")
    total = sum(known[part_id].bytes for part_id in part_ids)
    if total != upload.bytes:
        raise InvalidRequest(
            say("error.parts_have_bytes_together_but", total=total, bytes=upload.bytes),
            param="part_ids",
            code="invalid_value",
        )
    return [known[part_id] for part_id in part_ids]


def join(services: Services, upload: Upload, parts: list[UploadPart]) -> tuple[Received, str]:
    """The parts' content as one blob, and its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    pieces = (piece for part in parts for piece in services.blobs.get(part.blob))

    def hashed() -> Iterator[bytes]:
        # The blob store cannot read in the thread that it is writing in.
        with ThreadPoolExecutor(max_workers=1) as reader:
            while (piece := reader.submit(next, pieces, None).result()) is not None:
                digest.update(piece)
                yield piece

    received = receive(services, upload.filename, hashed())
    return received, digest.hexdigest()


def cancel(services: Services, caller: Caller, upload_id: str) -> Upload:
    upload = pending(services, caller, upload_id)
    finish(services, upload, "cancelled")
    return replace(upload, status="cancelled")


def finish(services: Services, upload: Upload, status: str, file: File | None = None) -> None:
    """End the upload, keep the file and drop the parts. Of two requests that end it at once, one gets a 400."""
    with write(services.engine) as conn:
        parts = store.list_parts(conn, upload.id)
        file_id = file.id if file else None
        if not store.update_upload_status(conn, upload.id, status, file_id=file_id):
            raise InvalidRequest(say("error.upload_has_ended_meanwhile_can", id=upload.id))
        if file is not None:
            limits.check_storage(conn, services.settings, upload.project_id, file.bytes)
            tenants.get_active_project(conn, upload.project_id)
            store.insert_file(conn, file)
        store.delete_parts(conn, upload.id)
    for part in parts:
        services.blobs.delete(part.blob)
