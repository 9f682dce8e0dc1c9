"""Where trainers run: what a worker asks of a trainer, whatever machine it is on. As the worker's child process it is
`hold.TrainerProcess`, on a Ray cluster `ray_runner.RayTrainer`.

Apart because both forms and whoever uses one of them stand on it.
"""

from dataclasses import dataclass
from typing import Protocol, TextIO

from tunery.datasets.report import Role
from tunery.domain.job_details import SavedState, StoredCheckpoint
from tunery.training.protocol import ControlRequest, Message, TrainSpec, Workdir


@dataclass(frozen=True)
class InputFile:
    role: Role
    file_id: str
    blob: str


@dataclass(frozen=True)
class Inputs:
    """All that a trainer's folder is filled with, from the blobs and the sources of bases."""

    model: str  # what the job names; spec has the job's id
    spec: TrainSpec  # its paths are set where the folder is
    source: str  # the base weights that the adapter stands on
    base_sha256: dict[str, str]  # of their files, by name: what they must be
    files: tuple[InputFile, ...]
    init_adapter: str | None  # the folder in the blobs of the adapter that the job goes on from
    state: SavedState | None
    checkpoints: tuple[StoredCheckpoint, ...]  # the trainer counts on those that its state names
    memory_bytes: int  # that the trainer takes, about


class TrainerLost(Exception):
    """The trainer ended without saying how it went, or its machine is gone; the text tells what is known."""


class Trainer(Protocol):
    """A trainer that was started, with its folder. Whatever waits for it raises TrainerLost when its machine is
    lost."""

    @property
    def step(self) -> int:
        """The step of the state that it goes on from, 0 without one. Known from its first word on."""
        ...

    @property
    def node(self) -> str:
        """The name of the machine that it runs on. Known from its first word on."""
        ...

    @property
    def ended(self) -> bool:
        """True once it will say nothing more and every word of it was handed out."""
        ...

    def messages(self, timeout_s: float) -> list[Message]:
        """Everything said since the last call, after waiting at most timeout_s for the first word. Raises what
        `workspace.fill` does when its folder could not be filled."""
        ...

    def ask(self, wanted: ControlRequest) -> None: ...

    def kill(self) -> None:
        """At once, without waiting for its end. Its folder stays until `close`."""
        ...

    def wait(self, timeout_s: float) -> str:
        """Why it ended, for the owner of its job. Kills a trainer that does not end in time."""
        ...

    def save_state(self) -> SavedState | None:
        """Upload the newest state that it saved. None when there is none, or it was replaced meanwhile."""
        ...

    def store_checkpoint(self, step: int, prefix: str) -> int:
        """Upload the adapter of a step below `prefix`; how many bytes it has. Raises OSError when it is not there."""
        ...

    def close(self) -> None:
        """End it, and let go of what it had."""
        ...


class Runner(Protocol):
    def start(self, inputs: Inputs, workdir: Workdir, lock: TextIO) -> Trainer:
        """Start a trainer. `workdir`: the job's folder on the worker's machine, whose lock the caller holds. The log
        and the samples for the parity check lie there when the trainer has ended, the rest only where the trainer
        is. Raises OSError, and what `workspace.fill` does."""
        ...
