"""What a worker and its trainer say to each other, and the folder both work in. Needs no torch.

The worker fills a `Workdir`, writes a `TrainSpec` into it and starts `python -m tunery.training.child <workdir>`. The
trainer says what it does as `Message`s, one JSON object a line on its stdout; the worker writes a `ControlRequest` into
the workdir when it wants something. The trainer's state lies in the workdir and is what the next trainer goes on from.

    Started → (StepMetrics | CheckpointSaved | StateSaved | Note)* → ParitySamples? Finished | Failed | Stopped
    Started → (StepMetrics | Note)* → RateFound | Failed, where a learning rate is sought

A trainer that was told to leave, or that was killed, says no last word.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, get_args

from tunery import atomic
from tunery.domain.errors import TuneryError
from tunery.domain.jobs import METHODS, Level, Method
from tunery.models.adapter_config import LoraConfig
from tunery.texts import Reference, reference

KEEP = 3  # checkpoints, those of the last epochs, as OpenAI does

MEASURES = (
    "train_loss",
    "train_mean_token_accuracy",
    "valid_loss",
    "valid_mean_token_accuracy",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
)
"""OpenAI's names of what is measured at a step."""


class ControlRequest(StrEnum):
    """What a worker may ask of a running trainer. A trainer whose job is cancelled is killed."""

    PAUSE = "pause"


class FailureCode(StrEnum):
    """Why a job failed: the `code` of its error."""

    INVALID_TRAINING_FILE = "invalid_training_file"
    MODEL_NOT_TRAINABLE = "model_not_trainable"
    TRAINING_DIVERGED = "training_diverged"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    SERVER_ERROR = "server_error"
    # Said by the worker.
    TRAINING_FAILED = "training_failed"  # its trainers died again and again
    TRAIN_SERVE_MISMATCH = "train_serve_mismatch"


class TrainingFailure(TuneryError):
    """The job cannot go on; the message is for its owner. Each kind has its code."""

    failure: ClassVar[FailureCode]

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, code=self.failure)


# ---- the folder


@dataclass(frozen=True)
class Workdir:
    """The folder of one job on this machine. A job that goes on elsewhere needs its `state`, the `checkpoints` that
    the state names, and its files."""

    root: Path

    @property
    def spec(self) -> Path:
        return self.root / "spec.json"

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def lock(self) -> Path:
        """Held by worker and trainer together."""
        return self.root / "lock"

    @property
    def log(self) -> Path:
        """The trainer's stderr."""
        return self.root / "trainer.log"

    @property
    def train_file(self) -> Path:
        return self.root / "train.jsonl"

    @property
    def valid_file(self) -> Path:
        return self.root / "valid.jsonl"

    @property
    def init_adapter(self) -> Path:
        """The adapter that the job goes on from."""
        return self.root / "init"

    @property
    def state(self) -> Path:
        """Files, each replaced whole."""
        return self.root / "state"

    @property
    def samples(self) -> Path:
        return self.root / "parity.json"

    def checkpoint(self, step: int) -> Path:
        """The adapter after optimizer step `step`: complete, or not there."""
        return self.root / "checkpoints" / f"step-{step}"

    def request(self, wanted: ControlRequest | None) -> None:
        """Takes effect between two micro-batches. None: nothing is wanted any more."""
        if wanted is None:
            self.control.unlink(missing_ok=True)
        else:
            atomic.write_text(self.control, wanted)

    def requested(self) -> ControlRequest | None:
        try:
            return ControlRequest(self.control.read_text("utf-8").strip())
        except (FileNotFoundError, ValueError):
            return None


def write_saved_step(state: Path, step: int) -> None:
    """Beside a state, for those who read no safetensors."""
    atomic.write_text(state / "meta.json", json.dumps({"step": step}) + "\n")


def saved_step(state: Path) -> int | None:
    """The optimizer step that the state in this folder was saved at; None when there is none that can be read."""
    try:
        return int(json.loads((state / "meta.json").read_text("utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ---- what the trainer is asked to do


@dataclass(frozen=True)
class TrainSpec:
    job_id: str
    model_dir: Path
    train_file: Path
    n_epochs: int
    batch_size: int
    learning_rate: float
    method: Method = "supervised"
    valid_file: Path | None = None
    init_adapter_dir: Path | None = None  # go on from this adapter: its rank, alpha and modules take precedence
    beta: float = 0.1  # DPO: how strongly the reference model holds
    seed: int = 0
    max_example_tokens: int = 8192
    completes: bool = False  # prompts and completions stay raw text; else they become turns of a chat
    lora: LoraConfig = field(default_factory=LoraConfig)
    state_interval_s: float = 5.0  # the least time between two states; longer where saving takes more than 2 %
    early_stopping: bool = False  # end when the validation loss has turned; otherwise only advise it
    threads: int = 0  # 0: as many as there are cores
    num_trainers: int = 1  # of the job: they share its batches, and the worker listens to the first
    rank: int = 0  # of this one among them
    meeting: str = ""  # HOST:PORT, where the first waits for the others
    seeks_rate: bool = False  # no model is wanted, but the learning rate near this one that trains best

    def save(self, workdir: Workdir) -> None:
        document = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        workdir.spec.write_text(json.dumps(document, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, workdir: Workdir) -> "TrainSpec":
        """Raises ValueError on an unknown key or method."""
        document = json.loads(workdir.spec.read_text("utf-8"))
        try:
            lora = document.pop("lora", {})
            for name in ("model_dir", "train_file", "valid_file", "init_adapter_dir"):
                if document.get(name) is not None:
                    document[name] = Path(document[name])
            spec = cls(**document, lora=LoraConfig(**{name: _tuple(value) for name, value in lora.items()}))
        except (TypeError, KeyError) as exc:
            raise ValueError(f"{workdir.spec} cannot be understood: {exc}") from exc
        if spec.method not in METHODS:
            raise ValueError(f"This trainer knows the methods {', '.join(METHODS)}, not {spec.method!r}.")
        return spec


def _tuple(value: Any) -> Any:
    """JSON knows lists only."""
    return tuple(value) if isinstance(value, list) else value


# ---- what the trainer says


@dataclass(frozen=True)
class Started:
    """Everything is loaded, the next step can begin."""

    num_examples: int
    total_steps: int
    trained_tokens: int  # of the whole job, as they are billed
    device: str  # "cpu" or "cuda"


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step, counted from 1. A loss that is no finite number is None, as what was not measured."""

    step: int
    total_steps: int
    epoch: int  # from 1
    train_loss: float | None
    train_mean_token_accuracy: float | None
    lr: float
    grad_norm: float | None
    tokens_per_s: float
    eta_s: float
    valid_loss: float | None = None  # of a few examples
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None  # of all of them, at the end of an epoch
    full_valid_mean_token_accuracy: float | None = None
    extras: dict[str, float | None] = field(default_factory=dict)  # of the method's own measures

    @property
    def measured(self) -> dict[str, float]:
        """The losses and accuracies that are there, by OpenAI's names."""
        return {name: value for name in MEASURES if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class CheckpointSaved:
    """The adapter lies in `Workdir.checkpoint(step)`."""

    step: int
    epoch: int
    metrics: dict[str, float]  # those of the step, as StepMetrics.measured


@dataclass(frozen=True)
class StateSaved:
    step: int


@dataclass(frozen=True)
class Note:
    """A sentence for the job's owner."""

    message: str
    level: Level = "info"
    data: dict[str, Any] | None = None
    text: Reference | None = None  # what the message was made from

    @classmethod
    def of(cls, text: str, *, level: Level = "info", data: dict[str, Any] | None = None) -> "Note":
        return cls(text, level, data, reference(text))


@dataclass(frozen=True)
class ParitySamples:
    """`Workdir.samples` is written."""

    count: int


@dataclass(frozen=True)
class Finished:
    step: int  # whose checkpoint is the job's model: the last one's, or the best one's of a job that stopped early
    trained_tokens: int


@dataclass(frozen=True)
class Failed:
    code: FailureCode
    message: str
    param: str | None = None
    text: Reference | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", FailureCode(self.code))

    @classmethod
    def of(cls, code: FailureCode, message: str, param: str | None = None) -> "Failed":
        return cls(code, message, param, reference(message))


@dataclass(frozen=True)
class Stopped:
    """Paused, as requested. The state is saved."""


@dataclass(frozen=True)
class RateFound:
    """The last word where a learning rate was sought; `loss` is that of the validation file."""

    learning_rate: float | None  # None: all diverged
    rates: list[float]  # that were tried
    losses: list[float | None]  # of each; None: it diverged


Message = (
    Started
    | StepMetrics
    | CheckpointSaved
    | StateSaved
    | Note
    | ParitySamples
    | Finished
    | Failed
    | Stopped
    | RateFound
)
LastWord = Finished | Failed | Stopped
Report = Callable[[Message], None]

_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """One line."""
    document = {item.name: getattr(message, item.name) for item in fields(message)}
    document["type"] = type(message).__name__
    return json.dumps(_finite(document), allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Message | None:
    """None for a line that is no message: a library that prints must not end a job. Keys that this version does not
    know are passed over."""
    try:
        document = json.loads(line)
        kind = _KINDS[document.pop("type")]
        known = {item.name for item in fields(kind)}
        return kind(**{name: value for name, value in document.items() if name in known})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is none becomes null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


# ---- what the engine must reproduce


@dataclass(frozen=True)
class Sample:
    """What the trainer measured on one example: logprobs[i] belongs to token_ids[start + i]."""

    token_ids: list[int]
    start: int
    logprobs: list[float]


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    path.write_text(json.dumps([asdict(sample) for sample in samples]), "utf-8")


def read_samples(path: Path) -> list[Sample]:
    return [Sample(**row) for row in json.loads(path.read_text("utf-8"))]
