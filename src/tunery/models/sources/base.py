"""What a source and whoever asks it know of each other."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tunery.domain.errors import Unavailable
from tunery.models.catalog import Artifact

Progress = Callable[[str, int, int | None], None]
"""What is being done, bytes so far, bytes in all (None when unknown). Of what domain.transfers.STEPPED has, steps."""


class SourceError(Unavailable):
    """The weights cannot be had; the message says why and what to do."""


@dataclass(frozen=True)
class Facts:
    """What a source says of its model besides files."""

    licence: str = ""  # as it names it, such as apache-2.0; "": it names none
    languages: tuple[str, ...] = ()  # ISO 639-1
    files: dict[str, str] = field(default_factory=dict[str, str])  # what was fetched: name → SHA-256


Look = Callable[[Path, Facts], None]
"""Sees the small files of a model, config.json among them, before its weights are fetched; what it raises ends that."""


class Fetch(Protocol):
    def __call__(self, location: str, target: Path, progress: Progress, artifact: Artifact | None, look: Look) -> Facts:
        """Fill the folder `target`. Raises SourceError."""
        ...


def download_folder(source: str, cache: Path) -> Path:
    """Where files are until all of them are there: the next try goes on with them."""
    return cache / ".downloads" / slug(source)


def slug(source: str) -> str:
    """A name for the source's folder."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-")[-60:]
    return f"{readable}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
