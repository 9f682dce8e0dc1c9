"""A fine-tuning job, its states and what may follow what. The database repeats these rules in its updates."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, get_args

from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.job_details import JobDetails
from tunery.texts import Reference, reference

Method = Literal["supervised", "dpo"]
METHODS: tuple[Method, ...] = get_args(Method)
EARLY_STOPPING = "early_stopping"  # a key of a job's metadata, as those below
RUN_EVAL = "run_eval"  # an eval's id: its models answer it when the job has succeeded
RUN_EVAL_FILE = "run_eval_file"  # the id of the file with the rows
IMPROVE_OF, IMPROVE_PART = "improve_of", "improve_part"  # the job that this one is to improve, and as what
OBEYED = frozenset({EARLY_STOPPING, RUN_EVAL, RUN_EVAL_FILE, IMPROVE_OF, IMPROVE_PART})  # all others are the client's
MAX_SAMPLE_TOKENS = 128  # of an answer to one of a job's sample prompts
Level = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]


class JobStatus(StrEnum):
    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})

ALLOWED: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.VALIDATING_FILES: frozenset({JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.PAUSED}),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.PAUSED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.PAUSED, JobStatus.QUEUED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.VALIDATING_FILES, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),  # resumed, where what it had reached was kept
    JobStatus.CANCELLED: frozenset(),
}


def is_wanted(metadata: dict[str, Any] | None, key: str) -> bool:
    """Metadata values are strings: `true`, `1`, `yes` and `on` switch something on."""
    return str((metadata or {}).get(key, "")).strip().lower() in ("true", "1", "yes", "on")


def sources_of(target: JobStatus) -> frozenset[JobStatus]:
    """The states from which `target` may be entered."""
    return frozenset(source for source, targets in ALLOWED.items() if target in targets)


@dataclass(frozen=True)
class JobError:
    code: str
    message: str
    param: str | None = None
    text: Reference | None = None  # what the message was made from, where it is a sentence of ours

    def __post_init__(self) -> None:
        if self.text is None:
            object.__setattr__(self, "text", reference(self.message))


@dataclass(frozen=True)
class FineTuningJob:
    id: str
    project_id: str
    organization_id: str
    created_at: int  # Unix seconds, as every time below
    status: JobStatus
    model: str  # the snapshot name the job was created on, or an `ft:` name it continues from
    base_model: str  # the snapshot name that stands in the new model's name
    training_file: str
    validation_file: str | None
    method: Method
    hyperparameters: Hyperparameters  # as asked for; numbers once the job has started
    seed: int
    suffix: str | None = None  # as sent; names.suffix_in_name tells how it stands in the model's name
    display_name: str | None = None  # its owner's own words for the job, free and changeable; models begin with it
    notes: str | None = None  # as the name: its owner's own words, beside the job and changeable
    tags: tuple[str, ...] = ()
    created_by: str | None = None  # the id of the key's owner; receives the mail
    finished_at: int | None = None
    started_at: int | None = None
    estimated_finish: int | None = None
    fine_tuned_model: str | None = None
    trained_tokens: int | None = None
    result_files: tuple[str, ...] = ()
    error: JobError | None = None
    metadata: dict[str, str] | None = None
    integrations: list[dict[str, Any]] | None = None
    sample_prompts: list[list[dict[str, str]]] | None = None  # messages; answered at each checkpoint while it trains
    cancel_requested: bool = False  # by version 0.1, of a running job; since then a cancel takes effect at once
    pause_requested: bool = False  # of a running job, which pauses within seconds
    paused_at: int | None = None  # set while the job is paused
    paused_s: int = 0  # of the pauses that are over, and of the time between a failure and its resume
    resumable: bool = False  # of a failed job: what it had reached is kept, and resume goes on from there
    worker_id: str | None = None
    lease_expires_at: float | None = None
    attempts: int = 0  # deaths of its trainer since the last progress: a lost worker or server is no fault of the job's
    died_at_step: int | None = None  # the step of the newest state when its trainer died last
    step: int = 0  # optimizer steps done
    total_steps: int | None = None
    details: JobDetails = field(default_factory=JobDetails)  # ours, under /tunery/v1

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def is_pausing(self) -> bool:
        return self.pause_requested and self.status is JobStatus.RUNNING

    @property
    def can_be_resumed(self) -> bool:
        return self.status is JobStatus.PAUSED or (self.status is JobStatus.FAILED and self.resumable)

    def elapsed_s(self, now: float) -> int | None:
        """Seconds since the first start, up to the end when it has ended, pauses left out. None before the start."""
        if self.started_at is None:
            return None
        until = self.finished_at or self.paused_at or int(now)
        return max(0, until - self.started_at - self.paused_s)


@dataclass(frozen=True)
class JobEvent:
    id: str
    job_id: str
    created_at: int
    message: str
    level: Level = "info"
    type: EventType = "message"
    data: dict[str, Any] | None = None
    sequence: int = 0  # grows with each event: created_at alone does not order events of one second
    text: Reference | None = None  # what the message was made from; None in events of others and of older versions


@dataclass(frozen=True)
class SampleAnswer:
    """What the checkpoint of a step answered to one of the job's sample prompts."""

    job_id: str
    step: int
    prompt: int  # its place among the job's
    created_at: int
    answer: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Checkpoint:
    id: str
    job_id: str
    created_at: int
    step_number: int
    fine_tuned_model_checkpoint: str
    metrics: dict[str, float]
