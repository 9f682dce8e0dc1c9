"""Files on the wire."""

from typing import Literal

from pydantic import BaseModel, Field

from tunery.domain.files import File

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")


class FileObject(BaseModel):
    object: Literal["file"] = "file"
    id: str
    bytes: int
    created_at: int
    expires_at: int | None = Field(description="Unix seconds; null: until it is deleted.")
    filename: str
    purpose: Literal[
        "assistants",
        "assistants_output",
        "batch",
        "batch_output",
        "fine-tune",
        "fine-tune-results",
        "vision",
        "user_data",
        "evals",
    ]
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None


class DeletedFile(BaseModel):
    object: Literal["file"] = "file"
    id: str
    deleted: bool = True


def wire_file(file: File) -> FileObject:
    return FileObject.model_validate(
        {
            "id": file.id,
            "bytes": file.bytes,
            "created_at": file.created_at,
            "expires_at": file.expires_at,
            "filename": file.filename,
            "purpose": file.purpose.value,
            "status": file.status,
            "status_details": file.status_details,
        }
    )
