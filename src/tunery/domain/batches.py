"""Batches: a file of requests that are answered when the engine has time for them, at a lower price."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

WINDOW_S = 86_400  # from its creation; then it expires
OUTPUT_LIFETIME_S = 30 * 86_400  # of the files that it makes, where the request does not say
MAX_REQUESTS = 50_000
MAX_INPUT_BYTES = 200 * 1024 * 1024


class BatchStatus(StrEnum):
    """validating → failed, or in_progress → finalizing → completed. Before that it may expire, or be cancelled:
    cancelling → cancelled. What was answered until then is delivered, and paid for, whatever the end."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


UNFINISHED = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING)


@dataclass(frozen=True)
class Batch:
    id: str  # batch_…
    project_id: str
    created_at: int
    status: BatchStatus
    endpoint: str  # such as /v1/chat/completions
    input_file_id: str
    expires_at: int
    api_key_id: str  # that asked for it, and whose right it needs until it has ended
    created_by: str | None  # a user's id
    output_lifetime_s: int = OUTPUT_LIFETIME_S
    metadata: dict[str, str] | None = None
    model: str | None = None  # what answers: the snapshot or fine-tune that the requests' name stands for
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    output_file_id: str | None = None  # of an unfinished one: under which its file is being written
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    num_requests: int = 0
    num_completed: int = 0
    num_failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class BatchResult:
    """What came of one request."""

    line: int  # of the input file, from 1
    content: str  # its line of the output or the error file
    is_failed: bool  # it stands in the error file
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


def seconds_left(begun_at: float | None, num_done: int, num_requests: int, now: float) -> float | None:
    """By the pace since it began. None: that cannot be said yet."""
    if begun_at is None or not num_done:
        return None
    return max(0.0, now - begun_at) / num_done * (num_requests - num_done)
