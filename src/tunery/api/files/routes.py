from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import Query, Request
from fastapi.responses import StreamingResponse

from tunery.api.access import FilesReader, FilesWriter
from tunery.api.body import takes_up_to
from tunery.api.context import ContextDep
from tunery.api.files import service
from tunery.api.files.schemas import PURPOSES, DeletedFile, FileObject, wire_file
from tunery.api.multipart import content_length, read_events
from tunery.api.paging import MAX_FILE_PAGE, After, CursorListing, FileLimit, cursor_listing
from tunery.api.routing import Router
from tunery.domain.files import MAX_FILE_BYTES

router = Router(prefix="/v1/files", tags=["Files"])

FORM_OVERHEAD = 1024 * 1024  # the other fields and the boundaries
FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                }
            }
        },
    }
}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file's bytes.", "content": {"application/octet-stream": {}}}
}


@router.post("", openapi_extra=FORM)
@takes_up_to(MAX_FILE_BYTES + FORM_OVERHEAD)
def create_file(request: Request, caller: FilesWriter, context: ContextDep) -> FileObject:
    events = read_events(request)
    return wire_file(service.upload_file(context, caller, events, content_length(request)))


@router.get("")
def list_files(
    caller: FilesReader,
    context: ContextDep,
    after: After = None,
    limit: FileLimit = MAX_FILE_PAGE,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=100)] = None,
) -> CursorListing[FileObject]:
    page = service.list_files(context, caller, purpose=purpose, after=after, limit=limit, order=order)
    return CursorListing[FileObject](**cursor_listing([wire_file(file) for file in page.items], page.has_more))


@router.get("/{file_id}")
def retrieve_file(file_id: str, caller: FilesReader, context: ContextDep) -> FileObject:
    return wire_file(service.get_file(context, caller, file_id))


@router.delete("/{file_id}")
def delete_file(file_id: str, caller: FilesWriter, context: ContextDep) -> DeletedFile:
    service.delete_file(context, caller, file_id)
    return DeletedFile(id=file_id)


@router.get("/{file_id}/content", response_class=StreamingResponse, responses=CONTENT)
def retrieve_content(file_id: str, caller: FilesReader, context: ContextDep) -> StreamingResponse:
    file = service.get_file(context, caller, file_id)
    name = quote(file.filename)
    return StreamingResponse(
        service.content(context, file),
        media_type="application/octet-stream",
        headers={"content-disposition": f"attachment; filename*=UTF-8''{name}"},
    )
