from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Query, Request
from fastapi.responses import StreamingResponse

from tunery.api.access import FilesReader, FilesWriter
from tunery.api.body import takes_up_to
from tunery.api.context import ContextDep
from tunery.api.files import service
from tunery.api.files.schemas import PURPOSES, DeletedFile, FileObject
from tunery.api.multipart import content_length, form, read_events
from tunery.api.paging import MAX_FILE_PAGE, After, CursorListing, FileLimit
from tunery.api.routing import Router
from tunery.domain.errors import InvalidRequest
from tunery.domain.files import MAX_FILE_BYTES
from tunery.store import files as store
from tunery.store import jobs
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(prefix="/v1/files", tags=["Files"])

FORM_OVERHEAD = 1024 * 1024  # the other fields and the boundaries
FORM = form(
    ["file", "purpose"],
    {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
    },
)
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file's bytes.", "content": {"application/octet-stream": {}}}
}


@router.post("", openapi_extra=FORM)
@takes_up_to(MAX_FILE_BYTES + FORM_OVERHEAD)
def create_file(request: Request, caller: FilesWriter, context: ContextDep) -> FileObject:
    events = read_events(request)
    return FileObject.of(service.upload_file(context, caller, events, content_length(request)))


@router.get("")
def list_files(
    caller: FilesReader,
    context: ContextDep,
    after: After = None,
    limit: FileLimit = MAX_FILE_PAGE,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=100)] = None,
) -> CursorListing[FileObject]:
    with read(context.database) as conn:
        page = store.list_files(conn, caller.project_id, purpose=purpose, after=after, limit=limit, order=order)
    return CursorListing[FileObject].of(page, FileObject.of)


@router.get("/{file_id}")
def retrieve_file(file_id: str, caller: FilesReader, context: ContextDep) -> FileObject:
    with read(context.database) as conn:
        return FileObject.of(store.get_file(conn, file_id, caller.project_id))


@router.delete("/{file_id}")
def delete_file(file_id: str, caller: FilesWriter, context: ContextDep) -> DeletedFile:
    # The row goes first: a crash between the two leaves a blob that nobody names, never a file without content.
    with write(context.database) as conn:
        if jobs.is_file_in_use(conn, file_id, caller.project_id):  # its next start would fail
            raise InvalidRequest(say("error.file_in_use", file_id=file_id), param="id")
        file = store.delete_file(conn, file_id, caller.project_id)
        record(conn, caller, "file.deleted", now=context.clock(), resource_id=file_id)
    context.blobs.delete(file.blob)
    return DeletedFile(id=file_id)


@router.get("/{file_id}/content", response_class=StreamingResponse, responses=CONTENT)
def retrieve_content(file_id: str, caller: FilesReader, context: ContextDep) -> StreamingResponse:
    with read(context.database) as conn:
        file = store.get_file(conn, file_id, caller.project_id)
    name = quote(file.filename)
    return StreamingResponse(
        service.content(context, file),
        media_type="application/octet-stream",
        headers={"content-disposition": f"attachment; filename*=UTF-8''{name}"},
    )
