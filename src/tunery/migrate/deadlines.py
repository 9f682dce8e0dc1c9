"""When a thing at OpenAI ends. The dates are a table in `deadlines.toml`, not code."""

import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib import resources
from pathlib import Path
from typing import Literal

from tunery.domain.names import parse_name

What = Literal["inference", "evals", "training"]


@dataclass(frozen=True)
class Deadline:
    what: What
    date: date
    models: tuple[str, ...]  # prefixes of snapshot names; empty: concerns everything of its kind


def load_deadlines(path: Path | None = None) -> list[Deadline]:
    """The shipped table, or one of the user's own with the same keys."""
    text = path.read_text() if path else resources.files("tunery.migrate").joinpath("deadlines.toml").read_text()
    rows = tomllib.loads(text)["deadline"]
    return [Deadline(row["what"], row["date"], tuple(row["models"])) for row in rows]


def base_of(model: str) -> str:
    """The snapshot under a fine-tune's name; a base model's own name."""
    name = parse_name(model)
    if name is not None:
        return name.base
    return model.split(":")[1] if model.startswith("ft:") and model.count(":") >= 1 else model


def end_of(model: str, deadlines: list[Deadline]) -> date | None:
    """The day a model stops answering; None when no date is known. The longest matching prefix decides."""
    base = base_of(model)
    matches = [
        (len(prefix), deadline.date)
        for deadline in deadlines
        if deadline.what == "inference"
        for prefix in deadline.models
        if base == prefix or base.startswith(prefix + "-")
    ]
    return max(matches)[1] if matches else None


def end_of_kind(what: What, deadlines: list[Deadline]) -> date | None:
    return next((deadline.date for deadline in deadlines if deadline.what == what), None)


def days_left(end: date | None, now: float) -> int | None:
    """Whole days from `now` (Unix seconds) to the shutdown day; 0 on the day and after it."""
    return None if end is None else max(0, (end - datetime.fromtimestamp(now, UTC).date()).days)
