"""Uploads in parts. Apart because every resource has its routes in a `routes.py`."""

from fastapi import Request

from tunery.api.access import FilesWriter
from tunery.api.body import takes_up_to
from tunery.api.context import ContextDep
from tunery.api.multipart import content_length, read_events
from tunery.api.routing import Router
from tunery.api.uploads import service
from tunery.api.uploads.schemas import Part, UploadComplete, UploadCreate, UploadObject, wire_part, wire_upload
from tunery.domain.files import MAX_PART_BYTES

router = Router(prefix="/v1/uploads", tags=["Uploads"])

FORM_OVERHEAD = 64 * 1024
FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


@router.post("")
def create_upload(body: UploadCreate, caller: FilesWriter, context: ContextDep) -> UploadObject:
    return wire_upload(service.create_upload(context, caller, body))


@router.post("/{upload_id}/parts", openapi_extra=FORM)
@takes_up_to(MAX_PART_BYTES + FORM_OVERHEAD)
def create_part(upload_id: str, request: Request, caller: FilesWriter, context: ContextDep) -> Part:
    events = read_events(request)
    return wire_part(service.add_part(context, caller, upload_id, events, content_length(request)))


@router.post("/{upload_id}/complete")
def complete_upload(upload_id: str, body: UploadComplete, caller: FilesWriter, context: ContextDep) -> UploadObject:
    upload, file = service.complete(context, caller, upload_id, part_ids=body.part_ids, md5=body.md5)
    return wire_upload(upload, file)


@router.post("/{upload_id}/cancel")
def cancel_upload(upload_id: str, caller: FilesWriter, context: ContextDep) -> UploadObject:
    return wire_upload(service.cancel(context, caller, upload_id))
