"""Files on the wire."""

from typing import Literal

from pydantic import BaseModel, Field

from tunery.api.paging import Resource

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")


class FileObject(Resource):
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
