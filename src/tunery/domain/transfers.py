"""Models that go to other programs, adapters that come from them, bases that are fetched: the worker's, of minutes."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, get_args

TransferKind = Literal["export", "import", "base"]
KINDS: tuple[TransferKind, ...] = get_args(TransferKind)
Format = Literal["adapter", "merged", "gguf", "ollama"]
NumberType = Literal["f16", "bf16", "q8_0", "q4_k_m"]  # of a GGUF file
FORMATS: tuple[Format, ...] = get_args(Format)
TYPES: tuple[NumberType, ...] = get_args(NumberType)
STEPPED = {"trying_rates"}  # of what is being done: it counts steps of training, not bytes
MAX_UNFINISHED = 20  # of a project
MAX_ATTEMPTS = 3  # a transfer that its worker died of so often has failed


class TransferStatus(StrEnum):
    """queued → running → succeeded, failed or cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = (TransferStatus.QUEUED, TransferStatus.RUNNING)


@dataclass(frozen=True)
class Transfer:
    id: str  # export_…, import_…, base_…
    project_id: str
    created_at: int
    kind: TransferKind
    status: TransferStatus
    asked: dict[str, Any]  # what the request says: an export's format and type; files, base and suffix; source and name
    created_by: str | None  # a user's id
    model: str | None = None  # that is exported, or that came of the import
    progress: dict[str, Any] | None = None  # doing, done and total
    error: dict[str, Any] | None = None  # code and message
    result: dict[str, Any] | None = None  # an export's proof; an import's warnings; what was found of a base
    file_id: str | None = None  # of an export that succeeded
    finished_at: int | None = None
    attempts: int = 0
