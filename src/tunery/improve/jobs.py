"""The job that is to be improved, and the ordinary jobs that a proposal makes of it: planned, priced, made or found.

Each carries in its metadata which job it is for and what it is: a proposal that was interrupted finds what there is and
makes the rest.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tunery.datasets.lines import Line, read_lines
from tunery.domain.errors import InvalidRequest
from tunery.domain.jobs import EARLY_STOPPING, IMPROVE_OF, IMPROVE_PART
from tunery.texts import say

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob

Json = dict[str, Any]

WHOLE = say("improve.all_rows")  # the part that is the job again, without the rows that are held back
HELD_BACK = 0.2  # of the rows, where the job had no validation file
MIN_ROWS = 10  # that a job takes
SEED = 0  # of which rows are in which part
LEFT_OUT = frozenset({"failed", "cancelled"})  # jobs in whose place another is made


@dataclass(frozen=True)
class Server:
    """The official client, and how what lies under `/tunery/v1` is read and asked."""

    client: "OpenAI"
    get: Callable[[str], Any]
    post: Callable[[str, Json], Any]


@dataclass(frozen=True)
class Part:
    """One job of a proposal. `rows`: positions among those of the training file; None for all of them."""

    name: str
    rows: tuple[int, ...] | None = None
    changes: Json = field(default_factory=dict)  # of the hyperparameters
    stops_early: bool = False


@dataclass(frozen=True)
class Price:
    cost: float
    currency: str
    min_s: float
    max_s: float

    def __add__(self, other: "Price") -> "Price":
        return Price(self.cost + other.cost, self.currency, self.min_s + other.min_s, self.max_s + other.max_s)


@dataclass(frozen=True)
class Point:
    """What a finished job had learnt at an epoch's end."""

    model: str
    step: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Subject:
    server: Server
    job: "FineTuningJob"
    recipe: Json  # the body that creates it again

    @cached_property
    def rows(self) -> list[Line]:
        """Of its training file, blank lines left out."""
        return rows_of(self.server, self.job.training_file)

    @cached_property
    def estimate(self) -> Json:
        """Of one epoch of the job."""
        return _estimate(self, 1)

    @property
    def tokens_a_row(self) -> float:
        return self.estimate["trained_tokens"] / self.estimate["num_examples"]

    @property
    def chosen(self) -> Json:
        return self.recipe["method"][self.recipe["method"]["type"]]["hyperparameters"]

    @cached_property
    def num_held_back(self) -> int:
        """Rows on which the job is measured, or its repetition without them."""
        if self.job.validation_file:
            return len(rows_of(self.server, self.job.validation_file))
        return len(self.rows) - self.num_trained

    @property
    def num_trained(self) -> int:
        """The other rows."""
        return len(self.rows) if self.job.validation_file else len(self.rows) - round(HELD_BACK * len(self.rows))


def open_job(server: Server, job_id: str) -> Subject:
    """Raises InvalidRequest unless the job has succeeded."""
    job = server.client.fine_tuning.jobs.retrieve(job_id)
    if job.status != "succeeded":
        raise InvalidRequest(say("improve.not_succeeded", job_id=job.id, status=job.status))
    return Subject(server, job, server.get(f"/jobs/{job.id}")["request"])


def rows_of(server: Server, file_id: str) -> list[Line]:
    return [line for line in read_lines([server.client.files.content(file_id).content]) if line.content]


def halves(count: int) -> list[tuple[int, ...]]:
    """Positions of two halves without a row in common, drawn by lot, always the same ones."""
    order = list(range(count))
    random.Random(SEED).shuffle(order)
    return [tuple(order[: count // 2]), tuple(order[count // 2 : 2 * (count // 2)])]


def find(subject: Subject, part: str) -> "FineTuningJob | None":
    """The newest job for this part that did not fail."""
    wanted = {IMPROVE_OF: subject.job.id, IMPROVE_PART: part}
    found = subject.server.client.fine_tuning.jobs.list(limit=10, metadata=wanted).data
    return next((job for job in found if job.status not in LEFT_OUT), None)


def missing(subject: Subject, parts: Sequence[Part]) -> list[Part]:
    return [part for part in parts if find(subject, part.name) is None]


def make_whole(subject: Subject) -> "FineTuningJob":
    """The job as it is measured on rows that it has not seen: itself where it had a validation file; else its
    repetition without some of the rows, found, or created with those held back."""
    if subject.job.validation_file:
        return subject.job
    if (known := find(subject, WHOLE)) is not None:
        return known
    split = subject.server.post(f"/files/{subject.job.training_file}/split", {"validation_share": HELD_BACK})
    files = {name: split[name] for name in ("training_file", "validation_file")}
    return _create(subject, Part(WHOLE), files)


def files_of(job: "FineTuningJob") -> Json:
    named = {"training_file": job.training_file, "validation_file": job.validation_file}
    return {name: file for name, file in named.items() if file}


def make(subject: Subject, part: Part, files: Json, rows: Sequence[Line]) -> "FineTuningJob":
    """The part's job: found, or created with those of `rows`, which are the training file's, that it is made of."""
    known = find(subject, part.name)
    if known is not None:
        return known
    if part.rows is not None:
        content = b"".join(rows[position].content + b"\n" for position in part.rows)
        name = f"{part.name.replace(' ', '-')}.jsonl"
        uploaded = subject.server.client.files.create(file=(name, content), purpose="fine-tune")
        files = files | {"training_file": uploaded.id}
    return _create(subject, part, files)


def _create(subject: Subject, part: Part, files: Json) -> "FineTuningJob":
    method = subject.recipe["method"]["type"]
    given = subject.job.metadata or {}
    stopping = {EARLY_STOPPING: "true"} if part.stops_early else {k: v for k, v in given.items() if k == EARLY_STOPPING}
    metadata = {IMPROVE_OF: subject.job.id, IMPROVE_PART: part.name, **stopping}
    body: Json = {
        **subject.recipe,
        **files,
        "suffix": part.name.replace(" ", "-"),
        "method": {"type": method, method: {"hyperparameters": {**subject.chosen, **part.changes}}},
        "metadata": metadata,
    }
    return subject.server.client.fine_tuning.jobs.create(**body)


def price_of(subject: Subject, parts: Sequence[Part]) -> Price:
    """Of jobs that are still to be made, from the server's estimates of one and of two epochs of the job: tokens and
    steps grow with rows times epochs, what a job takes besides does not. Early stopping can only make it less."""
    one, two = subject.estimate, _estimate(subject, 2)
    total = Price(0.0, one["currency"], 0.0, 0.0)
    for part in parts:
        epochs = part.changes.get("n_epochs", subject.chosen["n_epochs"])
        share = (subject.num_trained if part.rows is None else len(part.rows)) / len(subject.rows)
        low, high = (one[end] + (share * epochs - 1) * (two[end] - one[end]) for end in ("min_s", "max_s"))
        total += Price(share * epochs * one["cost"], one["currency"], max(0.0, low), high)
    return total


def _estimate(subject: Subject, epochs: int) -> Json:
    method = subject.recipe["method"]["type"]
    chosen = {**subject.chosen, "n_epochs": epochs}
    body = {**subject.recipe, "method": {"type": method, method: {"hyperparameters": chosen}}}
    return subject.server.post("/estimates", body)


def ended(server: Server, job_ids: Sequence[str]) -> "list[FineTuningJob]":
    """Raises InvalidRequest where one did not succeed."""
    jobs = [server.client.fine_tuning.jobs.retrieve(job_id) for job_id in job_ids]
    for job in jobs:
        if job.status != "succeeded":
            raise InvalidRequest(say("improve.part_not_succeeded", job_id=job.id, status=job.status))
    return jobs


def points_of(server: Server, job: "FineTuningJob") -> list[Point]:
    """The epochs' ends whose checkpoints are kept, the first one first. Raises InvalidRequest where nothing was
    measured."""
    kept = server.client.fine_tuning.jobs.checkpoints.list(job.id)
    found = [
        Point(point.fine_tuned_model_checkpoint, point.step_number, loss, accuracy)
        for point in kept
        for loss, accuracy in [(point.metrics.full_valid_loss, point.metrics.full_valid_mean_token_accuracy)]
        if loss is not None and accuracy is not None
    ]
    if not found:
        raise InvalidRequest(say("improve.no_validation_loss", job_id=job.id))
    return sorted(found, key=lambda point: point.step)
