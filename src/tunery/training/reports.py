"""What the child tells its parent: one JSON object a line."""

import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from tunery.texts import reference

Report = Callable[[dict[str, Any]], None]


class ParentGone(Exception):
    """Nobody reads any more."""


def own_stdout() -> Report:
    """Take stdout for reports alone: whatever a library prints goes to the log instead."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def report(message: dict[str, Any]) -> None:
        try:
            channel.write(json.dumps(_finite(message), allow_nan=False) + "\n")
            channel.flush()
        except (BrokenPipeError, ValueError) as exc:
            raise ParentGone from exc

    return report


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is none becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def message(text: str, *, level: str = "info", data: dict[str, Any] | None = None) -> dict[str, Any]:
    """A sentence for the job's owner."""
    return {"type": "message", "level": level, "message": text, "text": reference(text), "data": data}
