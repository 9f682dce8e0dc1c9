"""Policy of the Files API: what may be uploaded, for how long it stays, what its content reads like."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection

from tunery.api.access import check_still
from tunery.api.context import Context
from tunery.api.files.schemas import PURPOSES
from tunery.api.multipart import Event, PartHead, field_text, file_chunks
from tunery.datasets.upload_check import UploadCheck
from tunery.domain.batches import MAX_INPUT_BYTES
from tunery.domain.errors import InvalidRequest
from tunery.domain.files import File, FilePurpose, blob_path
from tunery.domain.ids import new_id
from tunery.domain.tenants import Caller, Scope
from tunery.metering.storage import Room
from tunery.store import files as store
from tunery.store import tenants
from tunery.store.audit import record
from tunery.store.blobs import BlobInfo
from tunery.store.database import write
from tunery.texts import say

BATCH_LIFETIME_S = 30 * 24 * 3600
MIN_LIFETIME_S, MAX_LIFETIME_S = 3600, 2_592_000
MAX_FILENAME = 255


@dataclass(frozen=True)
class Received:
    """What a form or the parts of an upload became: bytes in the blob store, not yet a file."""

    file_id: str
    filename: str
    info: BlobInfo
    jsonl_problem: str | None  # None: every line is a JSON object
    num_rows: int

    @property
    def blob(self) -> str:
        return blob_path(self.file_id)


def receive(context: Context, filename: str, chunks: Iterable[bytes]) -> Received:
    """Write the content to blobs while looking whether it is JSONL. The purpose may come later in the form."""
    file_id = new_id("file")
    check = UploadCheck()
    info = context.blobs.put(blob_path(file_id), watched(chunks, check))
    name = filename.replace("\0", "").replace("\\", "/").rpartition("/")[2][:MAX_FILENAME] or "upload"
    problem = check.finish()
    return Received(file_id, name, info, problem, check.num_rows)


def watched(chunks: Iterable[bytes], check: UploadCheck) -> Iterator[bytes]:
    for chunk in chunks:
        check.feed(chunk)
        yield chunk


def make_room(context: Context, caller: Caller, param: str, most: int | None = None) -> Room:
    """For what a request writes. `most`: its Content-Length."""
    return Room(context.database, context.blobs, context.settings, context.clock, caller.project_id, param, most)


def upload_file(context: Context, caller: Caller, events: Iterator[Event], most: int | None) -> File:
    """Reads the whole form; on any error nothing of it stays. `most`: the request's Content-Length."""
    with make_room(context, caller, "file", most) as room:
        return _upload_file(context, caller, events, room)


def _upload_file(context: Context, caller: Caller, events: Iterator[Event], room: Room) -> File:
    fields: dict[str, str] = {}
    received: Received | None = None
    try:
        for event in events:
            if not isinstance(event, PartHead):
                continue
            if event.name == "file" and received is None:
                received = receive(context, event.filename or "upload", room.let_in(file_chunks(events)))
            else:
                fields[event.name] = field_text(events)
        if received is None:
            raise InvalidRequest(say("error.file_required"), param="file", code="missing_required_parameter")
        purpose = read_purpose(fields.get("purpose"))
        lifetime_s = read_lifetime(fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]"))
        file = as_file(context, caller, received, purpose, lifetime_s)
        with write(context.database) as conn:
            room.settle(conn, file.bytes)
            keep(conn, context, caller, file)
        return file
    except BaseException:
        if received is not None:
            context.blobs.delete(received.blob)
        raise


def as_file(context: Context, caller: Caller, received: Received, purpose: FilePurpose, lifetime_s: int | None) -> File:
    """The received bytes as a file, not yet kept. Raises InvalidRequest when they must be JSONL and are not."""
    if purpose is FilePurpose.FINE_TUNE and received.jsonl_problem is not None:
        raise InvalidRequest(received.jsonl_problem, param="file")
    if purpose is FilePurpose.BATCH:  # what is wrong with a line of it is told by the batch
        if not received.filename.lower().endswith(".jsonl"):
            raise InvalidRequest(say("error.batch_file_name"), param="file")
        if received.info.bytes > MAX_INPUT_BYTES:
            raise InvalidRequest(say("error.batch_file_size", most=MAX_INPUT_BYTES), param="file")
    now = context.now()
    if lifetime_s is None and purpose is FilePurpose.BATCH:
        lifetime_s = BATCH_LIFETIME_S
    return File(
        id=received.file_id,
        project_id=caller.project_id,
        created_at=now,
        filename=received.filename,
        purpose=purpose,
        bytes=received.info.bytes,
        sha256=received.info.sha256,
        blob=received.blob,
        expires_at=None if lifetime_s is None else now + lifetime_s,
        num_rows=received.num_rows,
    )


def keep(conn: Connection, context: Context, caller: Caller, file: File) -> None:
    """From now on it is a file of the project. Raises when its owner may no longer make one: it may have been long
    on its way."""
    tenants.get_active_project(conn, caller.project_id)
    check_still(conn, caller, Scope.FILES_WRITE, context.clock())
    store.insert_file(conn, file)
    made = {"filename": file.filename, "purpose": file.purpose.value}
    record(conn, caller, "file.created", now=context.clock(), resource_id=file.id, made=made)


def read_purpose(text: str | None) -> FilePurpose:
    if text is None:
        raise InvalidRequest(say("error.purpose_required"), param="purpose", code="missing_required_parameter")
    if text not in PURPOSES:
        supported = ", ".join(f"'{name}'" for name in PURPOSES)
        raise InvalidRequest(
            say("error.invalid_value", text=text[:100], supported=supported),
            param="purpose",
            code="invalid_value",
        )
    return FilePurpose(text)


def read_lifetime(anchor: str | None, seconds: str | None) -> int | None:
    """Seconds that the file is to live, or None when the form does not say."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(
            say("error.expiry_anchor"),
            param="expires_after[anchor]",
            code="invalid_value",
        )
    if seconds is None or not seconds.isascii() or not seconds.isdigit() or len(seconds) > 9:
        raise InvalidRequest(
            say("error.expiry_not_integer"),
            param="expires_after[seconds]",
            code="invalid_type",
        )
    return check_lifetime(int(seconds), "expires_after[seconds]")


def check_lifetime(seconds: int, param: str) -> int:
    if not MIN_LIFETIME_S <= seconds <= MAX_LIFETIME_S:
        side = "below_min" if seconds < MIN_LIFETIME_S else "above_max"
        raise InvalidRequest(
            say(
                "error.out_of_range",
                param=param,
                least=MIN_LIFETIME_S,
                most=MAX_LIFETIME_S,
                seconds=seconds,
            ),
            param=param,
            code=f"integer_{side}_value",
        )
    return seconds


def content(context: Context, file: File) -> Iterator[bytes]:
    """The file's bytes; a result file as base64 text, which is how OpenAI serves it and clients read it."""
    chunks = context.blobs.get(file.blob)
    return as_base64(chunks) if file.purpose is FilePurpose.FINE_TUNE_RESULTS else chunks


def as_base64(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = len(data) - len(data) % 3  # base64 turns three bytes into four: padding belongs at the end only
        rest = data[whole:]
        yield base64.b64encode(data[:whole])
    yield base64.b64encode(rest)
