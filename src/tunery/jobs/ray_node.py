"""A trainer's place on a node of a Ray cluster. It is an actor: the trainer is the child of its process, as it is a
worker's elsewhere, in a folder of its own that is filled from the blobs and goes with the actor.

The node needs Tunery, and settings that name the same blobs; nothing of the database.
"""
# pyright: standard
# (not strict: half of Ray's own types are unknown)

import shutil
import socket
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import ray
from filelock import FileLock

from tunery.domain.errors import TuneryError
from tunery.domain.job_details import SavedState
from tunery.jobs.hold import JobTrainer, ProcessRunner, WorkdirBusy, lock_workdir, tail
from tunery.jobs.runner import Inputs
from tunery.settings import Settings, load_settings
from tunery.store.blobs import Blobs
from tunery.texts import say
from tunery.training.protocol import ControlRequest, Message, ParitySamples, Workdir

MAX_LOG_BYTES = 64 * 1024


@dataclass(frozen=True)
class Began:
    step: int
    node: str


@dataclass(frozen=True)
class Said:
    """What the trainer said, and the files that go with its words."""

    messages: list[Message]
    has_ended: bool
    samples: bytes | None = None  # with ParitySamples
    log: str | None = None  # its end, with the trainer's


class RayNode:
    """Methods run in threads: the trainer can be asked and killed while it is listened to."""

    _trainer: JobTrainer | None = None
    _workdir: Workdir | None = None

    def meeting(self) -> str:
        """HOST:PORT on this node, where the trainers of a job may meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"

    def start(self, inputs: Inputs, storage: tuple[str, str], meeting: str) -> Began:
        """Once, before what follows. `storage`: the worker's, see `storage_of`; `meeting`: of the job's trainers.
        Raises what a runner's start does."""
        settings, node = load_settings(), node_name()
        if storage_of(settings) != storage:
            raise TuneryError(say("error.node_storage", node=node))
        self._workdir, self._lock = _new_workdir(settings.home / "ray", inputs.spec.job_id)
        inputs = replace(inputs, spec=replace(inputs.spec, meeting=meeting))
        runner = ProcessRunner(Blobs.open(settings), settings.models_dir)
        try:
            self._trainer = runner.start(inputs, self._workdir, self._lock)
        except BaseException:
            shutil.rmtree(self._workdir.root, ignore_errors=True)
            raise
        return Began(self._trainer.step, node)

    def messages(self, timeout_s: float) -> Said:
        trainer, workdir = self._started
        messages = trainer.messages(timeout_s)
        has_samples = any(isinstance(message, ParitySamples) for message in messages)
        return Said(
            messages,
            trainer.ended,
            samples=workdir.samples.read_bytes() if has_samples else None,
            log=tail(workdir.log, MAX_LOG_BYTES) if trainer.ended else None,
        )

    @property
    def _started(self) -> tuple[JobTrainer, Workdir]:
        assert self._trainer is not None
        assert self._workdir is not None
        return self._trainer, self._workdir

    def ask(self, wanted: ControlRequest) -> None:
        self._started[0].ask(wanted)

    def kill(self) -> None:
        self._started[0].kill()

    def wait(self, timeout_s: float) -> str:
        return self._started[0].wait(timeout_s)

    def save_state(self) -> SavedState | None:
        return self._started[0].save_state()

    def store_checkpoint(self, step: int, prefix: str) -> int:
        return self._started[0].store_checkpoint(step, prefix)

    def close(self) -> None:
        trainer, workdir = self._started
        trainer.close()
        shutil.rmtree(workdir.root, ignore_errors=True)


def storage_of(settings: Settings) -> tuple[str, str]:
    """Where files lie: worker and nodes must mean the same. Keys are each machine's own."""
    return settings.resolved_blob_url, settings.s3_endpoint


def node_name() -> str:
    here = ray.get_runtime_context().get_node_id()
    return next(node["NodeName"] for node in ray.nodes() if node["NodeID"] == here)


def _new_workdir(above: Path, job_id: str) -> tuple[Workdir, TextIO]:
    """An empty folder with its lock. Those of actors that were killed have nobody who holds their lock: they go."""
    above.mkdir(parents=True, exist_ok=True)
    with FileLock(above / ".lock"):
        for folder in above.glob("ftjob-*"):
            try:
                lock_workdir(Workdir(folder), timeout_s=0).close()
            except WorkdirBusy:
                continue
            shutil.rmtree(folder, ignore_errors=True)
        workdir = Workdir(Path(tempfile.mkdtemp(prefix=f"{job_id}-", dir=above)))
        return workdir, lock_workdir(workdir)
