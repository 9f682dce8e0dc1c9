"""Runs one trainer as a child process and passes on what it says."""

import contextlib
import fcntl
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from tunery.texts import say
from tunery.training.protocol import ControlRequest, Message, Workdir, decode

log = logging.getLogger(__name__)

TRAINER = (sys.executable, "-m", "tunery.training.child")
LOG_TAIL_BYTES = 4000


class WorkdirBusy(Exception):
    """Another trainer still holds the folder."""


@dataclass
class TrainerProcess:
    """A running trainer. Own session, so that Ctrl-C in a terminal reaches the worker only, which then asks it
    to pause. The trainer itself watches its parent and ends, leaving its state, when the worker is killed."""

    workdir: Workdir
    process: subprocess.Popen[bytes]
    inbox: "queue.Queue[Message | None]" = field(default_factory=queue.Queue["Message | None"])
    _ended: bool = False

    def messages(self, timeout_s: float) -> list[Message]:
        """Everything said since the last call, after waiting at most timeout_s for the first word."""
        said: list[Message] = []
        with contextlib.suppress(queue.Empty):
            item = self.inbox.get(timeout=timeout_s)
            while True:
                if item is None:
                    self._ended = True
                    break
                said.append(item)
                item = self.inbox.get_nowait()
        return said

    @property
    def ended(self) -> bool:
        """True once its output is closed and every word of it was handed out."""
        return self._ended

    def ask(self, wanted: ControlRequest) -> None:
        self.workdir.request(wanted)

    def wait(self, timeout_s: float) -> int:
        """The exit status, negative for a signal. Kills a trainer that does not end in time."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        return status

    def kill(self) -> None:
        self.process.kill()
        self.wait(10)

    def log_tail(self) -> str:
        return tail(self.workdir.log)


@dataclass(frozen=True)
class ProcessRunner:
    command: Sequence[str] = TRAINER  # the workdir is added as the last argument

    def start(self, workdir: Workdir, lock: TextIO) -> TrainerProcess:
        """Start the trainer in workdir, where spec.json lies; it inherits the lock. Raises OSError when no process
        can be made."""
        workdir.request(None)
        with workdir.log.open("ab") as errors:
            process = subprocess.Popen(
                [*self.command, str(workdir.root)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_without_secrets(os.environ),
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )
        trainer = TrainerProcess(workdir, process)
        assert process.stdout is not None
        reader = threading.Thread(target=_read, args=(process.stdout, trainer.inbox), daemon=True)
        reader.start()
        return trainer


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The trainer needs none of the server's settings, and among them are its keys and passwords."""
    return {name: value for name, value in environment.items() if not name.startswith("TUNERY_")}


def lock_workdir(workdir: Workdir, timeout_s: float = 20.0) -> TextIO:
    """Worker and trainer share this lock: it is free only when both are gone, so two trainers never write one state.
    Raises WorkdirBusy when the trainer of a worker that died does not go away."""
    lock = workdir.lock.open("a")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() >= deadline:
                lock.close()
                raise WorkdirBusy(f"another trainer still works in {workdir.root}") from None
            time.sleep(0.05)


def why_it_ended(status: int, log_tail: str) -> str:
    """Of a trainer without a last word, for the job's owner. The log's last line says most: an uncaught error ends with
    its own."""
    if status == -signal.SIGKILL:
        return say("event.why.killed")
    if status < 0:
        return say("event.why.signal", name=signal.Signals(-status).name)
    lines = [line for line in log_tail.splitlines() if line.strip()]
    if not lines:
        return say("event.why.status", status=status)
    return say("event.why.last_line", status=status, line=lines[-1][:200])


def tail(path: Path) -> str:
    """The last few thousand bytes of a log, or nothing."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _read(stdout: BinaryIO, messages: "queue.Queue[Message | None]") -> None:
    with stdout:
        for line in stdout:
            message = decode(line)
            if message is not None:
                messages.put(message)
            else:
                log.debug("the trainer said something else: %r", line[:200])
    messages.put(None)
