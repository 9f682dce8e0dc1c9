"""Uploads in parts, which may come in any order and in parallel; completion fixes their order."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

from fastapi import Request
from pydantic import Field
from sqlalchemy import Connection

from tunery.api.access import FilesWriter, check_still
from tunery.api.body import Body, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.files.schemas import FileObject, Purpose
from tunery.api.files.service import Received, as_file, keep, make_room, receive
from tunery.api.multipart import Event, PartHead, content_length, field_text, file_chunks, form, read_events
from tunery.api.paging import Resource
from tunery.api.routing import Router
from tunery.domain.errors import InvalidRequest
from tunery.domain.files import MAX_PART_BYTES, MAX_PARTS, MAX_UPLOAD_BYTES, File, FilePurpose, Upload, UploadPart
from tunery.domain.ids import new_id
from tunery.domain.numbers import Int
from tunery.domain.tenants import Caller, Scope
from tunery.metering.storage import check_storage
from tunery.store import files as store
from tunery.store import tenants
from tunery.store.blobs import NoSuchBlob
from tunery.store.database import read, write
from tunery.store.storage import lock_storage
from tunery.texts import say

router = Router(prefix="/v1/uploads", tags=["Uploads"])

LIFETIME_S = 3600
FORM_OVERHEAD = 64 * 1024
FORM = form(["data"], {"data": {"type": "string", "format": "binary"}})


class ExpiresAfter(Body):
    anchor: Literal["created_at"]
    seconds: Int = Field(ge=3600, le=2592000)


class UploadCreate(Body):
    bytes: Int = Field(ge=0, le=MAX_UPLOAD_BYTES)
    filename: str = Field(min_length=1, max_length=255)
    mime_type: str = Field(min_length=1, max_length=255)
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class UploadComplete(Body):
    part_ids: list[str] = Field(max_length=MAX_PARTS)
    md5: str | None = Field(None, description="MD5 of the whole file, as 32 hexadecimal digits.", max_length=64)


class UploadObject(Resource):
    object: Literal["upload"] = "upload"
    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = Field(description="Set once the upload is completed.")


class Part(Resource):
    object: Literal["upload.part"] = "upload.part"
    id: str
    created_at: int
    upload_id: str


def wire_upload(upload: Upload, file: File | None = None) -> UploadObject:
    return UploadObject.of({**vars(upload), "file": file})


@router.post("")
def create_upload(body: UploadCreate, caller: FilesWriter, context: ContextDep) -> UploadObject:
    now = context.now()
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
    with write(context.database) as conn:
        # Nothing is held for it yet: its parts are counted as they arrive.
        check_storage(conn, context.settings, caller.project_id, body.bytes, now=now, param="bytes")
        tenants.get_active_project(conn, caller.project_id)
        store.insert_upload(conn, upload)
    return wire_upload(upload)


@router.post("/{upload_id}/parts", openapi_extra=FORM)
@takes_up_to(MAX_PART_BYTES + FORM_OVERHEAD)
def create_part(upload_id: str, request: Request, caller: FilesWriter, context: ContextDep) -> Part:
    events = read_events(request)
    return Part.of(add_part(context, caller, upload_id, events, content_length(request)))


def pending(context: Context, caller: Caller, upload_id: str) -> Upload:
    """The upload, which must still take parts. Raises NotFound, or InvalidRequest in any other state."""
    with read(context.database) as conn:
        return check_pending(context, store.get_upload(conn, upload_id, caller.project_id))


def check_pending(context: Context, upload: Upload) -> Upload:
    if upload.status == "pending" and upload.expires_at <= context.now():
        upload = replace(upload, status="expired")
    if upload.status != "pending":
        status = say(f"state.{upload.status}")
        raise InvalidRequest(say("error.upload_closed", upload_id=upload.id, status=status))
    return upload


def add_part(context: Context, caller: Caller, upload_id: str, events: Iterator[Event], most: int | None) -> UploadPart:
    """Nothing of a part stays that is larger than what is left of the announced bytes, or of the project's storage."""
    upload = pending(context, caller, upload_id)
    part_id = new_id("part")
    blob = f"uploads/{upload_id}/{part_id}"
    left = bytes_left(context, upload)
    size: int | None = None
    try:
        with make_room(context, caller, "data", most) as room:
            for event in events:
                if isinstance(event, PartHead) and event.name == "data" and size is None:
                    chunks = within(file_chunks(events), upload, left)
                    size = context.blobs.put(blob, room.let_in(chunks)).bytes
                elif isinstance(event, PartHead):
                    field_text(events)
            if size is None:
                raise InvalidRequest(say("error.data_required"), param="data", code="missing_required_parameter")
            part = UploadPart(id=part_id, upload_id=upload_id, created_at=context.now(), bytes=size, blob=blob)
            with write(context.database) as conn:
                room.settle(conn, size)
                keep_part(conn, context, caller, part)
        return part
    except BaseException:
        if size is not None:
            context.blobs.delete(blob)
        raise


def bytes_left(context: Context, upload: Upload) -> int:
    with read(context.database) as conn:
        number, num_bytes = store.sum_of_parts(conn, upload.id)
    if number >= MAX_PARTS:
        raise InvalidRequest(say("error.too_many_parts", most=MAX_PARTS), param="data")
    return upload.bytes - num_bytes


def within(chunks: Iterable[bytes], upload: Upload, left: int) -> Iterator[bytes]:
    """Raises InvalidRequest at the first byte that is too many."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        check_size(upload, size, left)
        yield chunk


def check_size(upload: Upload, size: int, left: int) -> None:
    if size > MAX_PART_BYTES:
        raise InvalidRequest(say("error.part_too_large", most=MAX_PART_BYTES // 1024**2), param="data")
    if size > left:
        raise InvalidRequest(
            say("error.more_than_announced", announced=upload.bytes, left=max(0, left)),
            param="data",
            code="upload_size_exceeded",
        )


def keep_part(conn: Connection, context: Context, caller: Caller, part: UploadPart) -> None:
    """Looks again, alone with the upload: parts come in parallel, and it may have ended meanwhile."""
    upload = check_pending(context, store.lock_upload(conn, part.upload_id, caller.project_id))
    number, num_bytes = store.sum_of_parts(conn, upload.id)
    if number >= MAX_PARTS:
        raise InvalidRequest(say("error.too_many_parts", most=MAX_PARTS), param="data")
    check_size(upload, part.bytes, upload.bytes - num_bytes)
    tenants.get_active_project(conn, caller.project_id)
    check_still(conn, caller, Scope.FILES_WRITE, context.clock())
    store.insert_part(conn, part)


@router.post("/{upload_id}/complete")
def complete_upload(upload_id: str, body: UploadComplete, caller: FilesWriter, context: ContextDep) -> UploadObject:
    # Joins the named parts in that order. The upload stays pending when they are not what was announced.
    upload = pending(context, caller, upload_id)
    parts = ordered_parts(context, upload, body.part_ids)
    try:
        received, digest = join(context, upload, parts)
    except NoSuchBlob:
        pending(context, caller, upload_id)  # another request completed it meanwhile, and the parts are gone
        raise
    try:
        if body.md5 is not None and body.md5.lower() != digest:
            raise InvalidRequest(
                say("error.md5_differs", digest=digest, md5=body.md5), param="md5", code="invalid_value"
            )
        file = as_file(context, caller, received, upload.purpose, upload.file_expires_after_s)
        finish(context, caller, upload, "completed", file)
    except BaseException:
        context.blobs.delete(received.blob)
        raise
    return wire_upload(replace(upload, status="completed", file_id=file.id), file)


def ordered_parts(context: Context, upload: Upload, part_ids: list[str]) -> list[UploadPart]:
    with read(context.database) as conn:
        known = {part.id: part for part in store.list_parts(conn, upload.id)}
    if unknown := [part_id for part_id in part_ids if part_id not in known]:
        raise InvalidRequest(
            say("error.no_such_part", id=upload.id, unknown=unknown[0]), param="part_ids", code="invalid_value"
        )
    if len(set(part_ids)) != len(part_ids):
        raise InvalidRequest(say("error.part_twice"), param="part_ids", code="invalid_value")
    total = sum(known[part_id].bytes for part_id in part_ids)
    if total != upload.bytes:
        raise InvalidRequest(
            say("error.upload_size_differs", total=total, bytes=upload.bytes),
            param="part_ids",
            code="invalid_value",
        )
    return [known[part_id] for part_id in part_ids]


def join(context: Context, upload: Upload, parts: list[UploadPart]) -> tuple[Received, str]:
    """The parts' content as one blob, and its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    pieces = (piece for part in parts for piece in context.blobs.get(part.blob))

    def hashed() -> Iterator[bytes]:
        # The blob store cannot read in the thread that it is writing in.
        with ThreadPoolExecutor(max_workers=1) as reader:
            while (piece := reader.submit(next, pieces, None).result()) is not None:
                digest.update(piece)
                yield piece

    received = receive(context, upload.filename, hashed())
    return received, digest.hexdigest()


@router.post("/{upload_id}/cancel")
def cancel_upload(upload_id: str, caller: FilesWriter, context: ContextDep) -> UploadObject:
    upload = pending(context, caller, upload_id)
    finish(context, caller, upload, "cancelled")
    return wire_upload(replace(upload, status="cancelled"))


def finish(context: Context, caller: Caller, upload: Upload, status: str, file: File | None = None) -> None:
    """End the upload, keep the file and drop the parts. Of two requests that end it at once, one gets a 400."""
    with write(context.database) as conn:
        lock_storage(conn, upload.project_id)
        file_id = file.id if file else None
        if not store.update_upload_status(conn, upload.id, status, file_id=file_id):
            raise InvalidRequest(say("error.upload_ended", id=upload.id))
        parts = store.list_parts(conn, upload.id)
        store.delete_parts(conn, upload.id)
        if file is not None:  # it takes the place of its parts
            check_storage(conn, context.settings, upload.project_id, file.bytes, now=context.clock(), param="part_ids")
            keep(conn, context, caller, file)
    for part in parts:
        context.blobs.delete(part.blob)
