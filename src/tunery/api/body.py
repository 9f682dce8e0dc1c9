"""The base of every JSON request body: strict types, no unknown keys, no character that a database cannot hold."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_DEPTH = 64

Texts = Annotated[
    dict[str, Any],
    Field(description="Of each sentence above its `key` and `params`, to word it in another language."),
]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        if holds_nul(value):
            raise ValueError("the character U+0000 is not allowed.")
        return value


def without_nul(value: Any) -> Any:
    """The same with U+FFFD for U+0000, for texts that were served and are only kept: Postgres has no place for it."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {without_nul(key): without_nul(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nul(item) for item in value]
    return value


def holds_nul(value: Any, depth: int = 0) -> bool:
    """True for U+0000 in any string or key: Postgres cannot store it. Also for nesting beyond MAX_DEPTH."""
    if isinstance(value, str):
        return "\0" in value
    if depth > MAX_DEPTH:
        return True
    if isinstance(value, dict):
        return any(holds_nul(key, depth + 1) or holds_nul(item, depth + 1) for key, item in value.items())
    if isinstance(value, list):
        return any(holds_nul(item, depth + 1) for item in value)
    return False


def is_finite(value: Any) -> bool:
    """False when a number anywhere is NaN or infinite, which Python's JSON takes and no other does."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(is_finite(item) for item in value.values())
    if isinstance(value, list):
        return all(is_finite(item) for item in value)
    return True
