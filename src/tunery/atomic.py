"""Files and folders that are replaced whole and lie on the disk, not in its cache, before their names point at them:
a killed process or a power cut leaves the old or the new, never half of one."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTS = ".part-*"  # what a killed process may leave beside the target


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to; at the end of the block it takes the place of `path`. An exception in
    the block leaves `path` as it was and nothing beside it. Raises OSError."""
    part = _beside(path)
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path, *, unless_there: bool = False, part: Path | None = None) -> Iterator[Path]:
    """The same for a folder, which is there and empty when the block begins. What stood at `path` is removed just
    before the new one gets its name; with `unless_there` it stays, and the new one is dropped. `part`: where it lies
    meanwhile, for whoever holds a lock on it: what a killed process left there is removed first."""
    if part is None:
        part = _beside(path)
    elif part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    try:
        yield part
        for item in (*part.rglob("*"), part):
            sync(item)
        if path.exists() and unless_there:
            return
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace the file's content, in UTF-8."""
    with replacing(path) as part:
        part.write_text(text, "utf-8")


def write_private(path: Path, content: bytes) -> None:
    """Replace the content of a file that nobody but its owner could ever read. Makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    opener = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with replacing(path) as part, os.fdopen(os.open(part, opener, 0o600), "wb") as file:
        file.write(content)


def sync(path: Path) -> None:
    """Have the content of a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove what writers that were killed left in a folder that nobody writes to now."""
    for part in folder.glob(PARTS):
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(PARTS.replace("*", secrets.token_hex(8)))


def is_disk_full(exc: BaseException) -> bool:
    """The blob store, safetensors, SQLite and numpy wrap the system's error in their own: then only the text tells."""
    full, text = (errno.ENOSPC, errno.EDQUOT), str(exc)
    return (
        getattr(exc, "errno", None) in full
        or any(f"os error {number}" in text for number in full)
        or "database or disk is full" in text
        or (" requested and " in text and text.endswith(" written"))  # numpy's tofile
    )
