"""Completions that are kept: because the client asked (`store`), or as the answers of a model that will go away."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoredCompletion:
    id: str  # chatcmpl-…
    project_id: str
    created_at: int
    model: str
    request: dict[str, Any]  # as received
    response: dict[str, Any]  # as sent
    metadata: dict[str, str] | None = None
