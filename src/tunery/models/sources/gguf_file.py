"""Base weights from one GGUF file on this machine: `gguf:/folder/file.gguf`; and how any such file is read.

Apart from the reader, which knows architectures and nothing of sources.
"""

import struct
from pathlib import Path

from tunery.models.catalog import Artifact
from tunery.models.sources.base import Facts, Look, Progress, SourceError
from tunery.models.sources.gguf import UnsupportedGGUF, convert
from tunery.models.sources.path import check_files, sha256_of
from tunery.texts import say

_DAMAGED = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, MemoryError, struct.error)
"""What the library comes to with a file whose head is not what it should be."""


def fetch(location: str, target: Path, progress: Progress, artifact: Artifact | None, look: Look) -> Facts:
    """Raises SourceError."""
    file = Path(location).expanduser().resolve()
    if not file.is_file():
        raise SourceError(say("source.no_such_path", path=file))
    progress("checking", 0, None)
    sha256 = sha256_of(file)
    check_files({file.name: sha256}, artifact)
    return Facts(read_file(file, target, progress), (), {file.name: sha256})


def read_file(file: Path, target: Path, progress: Progress) -> str:
    """The model dir of the file; returns the licence that it names. Raises SourceError."""
    progress("converting", 0, None)
    try:
        return convert(file, target)
    except UnsupportedGGUF as exc:
        raise SourceError(say("source.gguf_unread", file=file.name, reason=exc)) from exc
    except _DAMAGED as exc:
        raise SourceError(say("source.gguf_damaged", file=file.name, reason=str(exc) or type(exc).__name__)) from exc
