"""Uploads on the wire."""

from typing import Literal

from pydantic import Field

from tunery.api.body import Body
from tunery.api.files.schemas import FileObject, Purpose
from tunery.api.paging import Resource
from tunery.domain.files import MAX_PARTS, MAX_UPLOAD_BYTES, File, Upload


class ExpiresAfter(Body):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2592000)


class UploadCreate(Body):
    bytes: int = Field(ge=0, le=MAX_UPLOAD_BYTES)
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
