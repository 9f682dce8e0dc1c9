"""Uploaded files and multi-part uploads."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import tunery

MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_UPLOAD_BYTES = 8 * 1024**3
MAX_PART_BYTES = 64 * 1024 * 1024
MAX_PARTS = 10_000  # of one upload


class FilePurpose(StrEnum):
    ASSISTANTS = "assistants"
    ASSISTANTS_OUTPUT = "assistants_output"
    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"
    FINE_TUNE = "fine-tune"
    FINE_TUNE_RESULTS = "fine-tune-results"
    VISION = "vision"
    USER_DATA = "user_data"
    EVALS = "evals"


@dataclass(frozen=True)
class File:
    id: str
    project_id: str
    created_at: int
    filename: str
    purpose: FilePurpose
    bytes: int
    sha256: str
    blob: str  # the blob's path
    expires_at: int | None = None
    status: str = "processed"
    status_details: str | None = None
    num_rows: int | None = None  # lines that are not blank; None: not counted
    # the SHA-256 of the file that this one is a part of, since that was split, and of what that is a part of
    split_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class Version:
    """A file as one of the versions of a dataset. A file without one is the first of its own."""

    file_id: str
    project_id: str
    dataset_id: str  # the id of the first version's file, which may be gone
    number: int  # from 1
    created_at: int
    parent_id: str | None = None  # the file that was edited; None: it was not made of another version
    source: str | None = None  # what the first version was made of, such as the name of a table
    user_id: str | None = None  # who made it
    key_id: str | None = None
    num_added: int = 0  # rows, against the parent
    num_removed: int = 0
    num_changed: int = 0
    difference: dict[str, list[list[int]]] | None = None  # runs of lines; None: too scattered to be kept


@dataclass(frozen=True)
class Upload:
    id: str
    project_id: str
    created_at: int
    expires_at: int
    filename: str
    purpose: FilePurpose
    bytes: int
    mime_type: str
    status: str = "pending"  # pending, completed, cancelled, expired
    file_id: str | None = None
    file_expires_after_s: int | None = None


@dataclass(frozen=True)
class UploadPart:
    id: str
    upload_id: str
    created_at: int
    bytes: int
    blob: str


def blob_path(file_id: str) -> str:
    """Where a file's bytes lie in the blobs."""
    return f"files/{file_id}"


def example_file(name: str) -> Path:
    """Of `examples/`: in an installation beside the package's modules, else in the checkout."""
    package = Path(tunery.__file__).parent
    installed = package / "examples" / name
    return installed if installed.exists() else package.parents[1] / "examples" / name
