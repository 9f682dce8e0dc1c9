"""Responses and conversations that are kept, each with its items."""

from dataclasses import dataclass
from typing import Any, Literal

Direction = Literal["input", "output"]

ENDED = ("completed", "failed", "cancelled", "incomplete")
UNDER_WAY = ("queued", "in_progress")


@dataclass(frozen=True)
class StoredResponse:
    id: str  # resp_…
    project_id: str
    created_at: int
    model: str
    status: str  # one of UNDER_WAY and ENDED
    body: dict[str, Any]  # the object as it was answered, without its `output`
    metadata: dict[str, str] | None = None
    previous_response_id: str | None = None
    is_background: bool = False
    seen_at: int | None = None  # when the process that works on it last said so; background only

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class Conversation:
    id: str  # conv_…
    project_id: str
    created_at: int
    metadata: dict[str, str] | None = None
