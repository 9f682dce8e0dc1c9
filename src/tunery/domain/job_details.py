"""What this server knows of a job beyond OpenAI's object: facts of its files, what it goes on from, what it came to.

Stored as one JSON object beside the job. A field that says nothing is left out of it; homes of other versions may hold
keys that this one does not know, which are passed over.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class StoredCheckpoint:
    """An adapter that is safe in the blobs, under the id it will have as a model."""

    step: int
    model_id: str
    metrics: dict[str, float]
    published: bool = False  # it is a model already, since the job was paused or had failed: its weights must stay
    num_bytes: int = 0  # of the adapter

    @property
    def blob(self) -> str:
        return f"adapters/{self.model_id}"


@dataclass(frozen=True)
class SavedState:
    """A state in the blobs. The job names it, so a half-finished upload is never taken for one."""

    step: int
    prefix: str
    num_bytes: int = 0


@dataclass(frozen=True)
class JobDetails:
    training_sha256: str | None = None  # of the training file, which may be deleted and uploaded again
    training_split_from: list[str] = field(default_factory=list[str])  # see File.split_from
    eval_key_id: str | None = None  # of a job with an eval: whose right its runs need
    # of the check of its files
    num_examples: int | None = None
    num_tokens: int | None = None  # of one epoch
    epoch_counts: dict[str, Any] | None = None  # datasets.work.EpochCounts
    data_advice: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    problems: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # the first lines to mend
    # of its start
    source: str | None = None  # the base weights that the adapter stands on
    base_sha256: dict[str, str] | None = None  # of their files, by name
    weights: str | None = None  # their name for people
    device: str | None = None  # "cpu" or "cuda"
    node: str | None = None  # the name of the machine that trains it, or has trained it last
    hyperparameter_reasons: dict[str, str] = field(default_factory=dict[str, str])
    texts: dict[str, Any] = field(default_factory=dict[str, Any])  # what the reasons were made from
    # of its training
    progress: dict[str, Any] | None = None  # of the newest step
    training_advice: dict[str, Any] | None = None
    checkpoints: tuple[StoredCheckpoint, ...] = ()  # lowest step first
    state: SavedState | None = None
    # of its end
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    parity: dict[str, Any] | None = None
    # of a job that was brought from another server, as that told it
    imported: dict[str, Any] | None = None

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "JobDetails":
        known = {name: value for name, value in stored.items() if value is not None and name in _NAMES}
        if "checkpoints" in known:
            made = [StoredCheckpoint(**row) for row in known["checkpoints"]]
            known["checkpoints"] = tuple(sorted(made, key=lambda checkpoint: checkpoint.step))
        if "state" in known:
            known["state"] = SavedState(**known["state"])
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in (None, [], {}, ())}


_NAMES = frozenset(item.name for item in fields(JobDetails))  # asked for once: a page of jobs has hundreds of details
