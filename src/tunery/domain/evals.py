"""Evals: rows, what a model answers to them, and the criteria that its answers must meet."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

MAX_ROWS = 100_000  # of one run
MAX_CRITERIA = 32  # of one eval; each grades every row

Json = dict[str, Any]
JobRole = Literal["base", "previous", "new"]
"""Of the models that answer a job's eval: what was trained on, what its model is to replace, and its model."""
ItemStatus = Literal["pass", "fail", "error"]
"""What became of a row: every criterion passed, one did not, or it could not be said."""


class RunStatus(StrEnum):
    """queued → in_progress → completed, whatever the rows came to; or failed, when the run itself could not go on.
    Until then it may be canceled, which OpenAI spells so."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


UNFINISHED = (RunStatus.QUEUED, RunStatus.IN_PROGRESS)


@dataclass(frozen=True)
class Eval:
    id: str  # eval_…
    project_id: str
    created_at: int
    updated_at: int
    name: str
    data_source_config: Json  # as it is given out: with the `schema` of a row
    testing_criteria: list[Json]  # each with its `id`
    metadata: dict[str, str] | None = None


@dataclass(frozen=True)
class EvalRun:
    id: str  # evalrun_…
    eval_id: str
    project_id: str
    created_at: int
    status: RunStatus
    name: str
    model: str  # that answers the rows; "" where the answers are there already
    data_source: Json  # as it is given out
    api_key_id: str  # that asked for it, and whose right it needs until it has ended
    created_by: str | None  # a user's id
    metadata: dict[str, str] | None = None
    job_id: str | None = None  # the job that it is run for
    job_role: JobRole | None = None
    error: dict[str, str] | None = None  # code and message of a run that failed
    started_at: int | None = None
    finished_at: int | None = None
    answer_ids: list[str] | None = None  # of stored answers that are its rows, once it has begun
    num_rows: int = 0  # 0 until it has begun
    num_passed: int = 0
    num_failed: int = 0
    num_errored: int = 0
    criteria: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])  # counts by a criterion's id
    usage: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])  # counts by a model's name


@dataclass(frozen=True)
class OutputItem:
    """What came of one row."""

    id: str  # outputitem_…
    run_id: str
    project_id: str
    created_at: int
    status: ItemStatus
    row: int  # which of the rows, from 0
    item: Json
    results: list[Json]  # one for each criterion that was asked, in their order
    sample: Json  # what the model was asked, and its answer
