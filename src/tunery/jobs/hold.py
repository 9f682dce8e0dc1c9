"""What a worker holds of a job while it works on it: the trainer, here as a child process whose words it passes on; the
lock on its folder; the lease, which is renewed in a thread of its own and hears what the job's owner wants."""

import contextlib
import fcntl
import logging
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from sqlalchemy import Connection, Engine

from tunery.domain.clock import Clock, system_clock
from tunery.domain.job_details import SavedState
from tunery.jobs.runner import Inputs
from tunery.jobs.workspace import Workspace, fill
from tunery.store import claims
from tunery.store.blobs import Blobs
from tunery.store.database import write
from tunery.texts import say
from tunery.training.protocol import ControlRequest, Message, Workdir, decode

log = logging.getLogger(__name__)

TRAINER = (sys.executable, "-m", "tunery.training.child")
LOG_TAIL_BYTES = 4000
LONGEST_PERIOD_S = 0.5  # a pause is heard, and a cancel is noticed, within this time


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

    def __post_init__(self) -> None:
        assert self.process.stdout is not None
        threading.Thread(target=_read, args=(self.process.stdout, self.inbox), daemon=True).start()

    def messages(self, timeout_s: float) -> list[Message]:
        """Everything said since the last call, after waiting at most timeout_s for the first word."""
        received: list[Message] = []
        with contextlib.suppress(queue.Empty):
            item = self.inbox.get(timeout=timeout_s)
            while True:
                if item is None:
                    self._ended = True
                    break
                received.append(item)
                item = self.inbox.get_nowait()
        return received

    @property
    def ended(self) -> bool:
        """True once its output is closed and every word of it was handed out."""
        return self._ended

    def ask(self, wanted: ControlRequest) -> None:
        self.workdir.request(wanted)

    def kill(self) -> None:
        self.process.kill()

    def wait(self, timeout_s: float) -> str:
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        return why_it_ended(status, self.log_tail())

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def log_tail(self) -> str:
        return tail(self.workdir.log)


@dataclass
class JobTrainer(TrainerProcess):
    """That of a job, on this machine: a `runner.Trainer`, whose results go from its folder to the blobs."""

    job_id: str = field(kw_only=True)
    blobs: Blobs = field(kw_only=True)
    step: int = field(kw_only=True)
    node: str = field(default_factory=platform.node)

    def save_state(self) -> SavedState | None:
        return Workspace(self.workdir.root).save(self.blobs, self.job_id)

    def store_checkpoint(self, step: int, prefix: str) -> int:
        folder = self.workdir.checkpoint(step)
        return sum(file.bytes for file in self.blobs.upload_dir(prefix, folder))


@dataclass(frozen=True)
class ProcessRunner:
    """A `runner.Runner` of child processes."""

    blobs: Blobs
    models_dir: Path
    command: Sequence[str] = TRAINER  # the workdir is added as the last argument

    def start(self, inputs: Inputs, workdir: Workdir, lock: TextIO) -> JobTrainer:
        step = fill(inputs, Workspace(workdir.root), self.blobs, self.models_dir)
        process = start_process(workdir, lock, self.command)
        return JobTrainer(workdir, process, job_id=inputs.spec.job_id, blobs=self.blobs, step=step)


def start_process(workdir: Workdir, lock: TextIO, command: Sequence[str] = TRAINER) -> subprocess.Popen[bytes]:
    """The trainer in workdir, where spec.json lies; it inherits the lock. Raises OSError when no process can be
    made."""
    workdir.request(None)
    with workdir.log.open("ab") as errors:
        return subprocess.Popen(
            [*command, str(workdir.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_without_secrets(os.environ),
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )


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


def tail(path: Path, num_bytes: int = LOG_TAIL_BYTES) -> str:
    """The last bytes of a log, or nothing."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
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


class LeaseLost(Exception):
    """Another worker may have the job by now: nothing more may be written for it here."""


class Lease:
    """A context manager. `on_beat` is called after each renewal in the lease's thread, with `lost=True` once when the
    lease is gone: another worker has the job, or it was cancelled."""

    def __init__(
        self,
        engine: Engine,
        job_id: str,
        *,
        worker_id: str,
        lease_s: float,
        on_beat: Callable[["Lease"], None],
        clock: Clock = system_clock,
    ) -> None:
        self.job_id, self.worker_id = job_id, worker_id
        self.pause_requested = self.lost = False
        self._engine, self._lease_s, self._on_beat, self._clock = engine, lease_s, on_beat, clock
        self._period_s = min(LONGEST_PERIOD_S, lease_s / 3)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{job_id}", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more beats: the caller is about to let the job go, which must not look like a loss."""
        self._done.set()
        self._thread.join()

    def renew(
        self,
        conn: Connection,
        *,
        step: int | None = None,
        estimated_finish: int | None = None,
    ) -> None:
        """Renew inside the caller's transaction, so that what it writes is written only by the job's holder.
        Raises LeaseLost."""
        flags = claims.heartbeat(
            conn,
            self.job_id,
            self.worker_id,
            now=self._clock(),
            lease_s=self._lease_s,
            step=step,
            estimated_finish=estimated_finish,
        )
        if flags is None:
            self.lost = True
            raise LeaseLost(self.job_id)
        self.pause_requested = flags.pause_requested

    def _keep(self) -> None:
        last = self._clock()
        while not self._done.wait(self._period_s):
            try:
                with write(self._engine) as conn:
                    self.renew(conn)
                last = self._clock()
            except LeaseLost:
                log.info("%s was cancelled, or its lease is lost", self.job_id)
            except Exception:
                # The database may be back before the lease runs out.
                log.exception("the lease of %s could not be renewed", self.job_id)
                self.lost = self._clock() - last > self._lease_s
            self._on_beat(self)
            if self.lost:
                return
