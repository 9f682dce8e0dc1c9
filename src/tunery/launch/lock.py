"""One server a home. The lock is the kernel's, so that a killed server leaves none behind; the file also tells the
command line on this machine where the server is."""

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tunery.domain.errors import TuneryError

NAME = "server.json"


class HomeInUse(TuneryError):
    """Another server runs in this home. The message says which process."""


@dataclass(frozen=True)
class RunningServer:
    pid: int
    url: str


class HomeLock:
    def __init__(self, home: Path) -> None:
        self._path = home / NAME
        self._file: IO[str] | None = None

    def acquire(self, url: str) -> None:
        """Raises HomeInUse."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.close()
            other = _read(self._path)
            where = f" (process {other.pid}, {other.url})" if other else ""
            raise HomeInUse(
                f"A server already runs in {self._path.parent}{where}. Stop it, or set TUNERY_HOME to another folder."
            ) from exc
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "url": url}) + "\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()
            self._file = None


def running_server(home: Path) -> RunningServer | None:
    """The server that holds this home now, or None."""
    path = home / NAME
    if not path.exists():
        return None
    with path.open("r", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(path)
    return None


def _read(path: Path) -> RunningServer | None:
    try:
        return RunningServer(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError):
        return None
