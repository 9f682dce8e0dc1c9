"""Reports, estimates and rows on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tunery.api.body import Body, Texts
from tunery.api.files.schemas import FileObject
from tunery.api.fine_tuning.schemas import JobCreate
from tunery.datasets.report import Role
from tunery.domain.jobs import Method
from tunery.domain.numbers import Int

DEFAULT_SEED = 0  # of a split
Share = Annotated[float, Field(gt=0, lt=1)]


class ValidationCreate(Body):
    file: str = Field(min_length=1, max_length=200, description="The id of an uploaded file.")
    model: str | None = Field(
        None, max_length=256, description="Count tokens as this model's base does. Null: count none."
    )
    method: Method | None = Field(None, description="Null: any format is good.")
    role: Role = "training"
    training_file: str | None = Field(
        None, max_length=200, description="With the role `validation`: look for rows that stand in this file too."
    )
    validation_share: Share | None = Field(
        None, description="Report on what is left to train on when a file is split with this share."
    )
    stream: bool = Field(False, description="Answer with server-sent events: `progress` while it works, then `report`.")


class ProblemOut(BaseModel):
    code: str
    severity: Literal["error", "warning"]
    line: int | None = Field(description="1-based; null when the whole file is meant.")
    path: str | None = Field(description="Inside the example, such as `messages[1].content`.")
    message: str
    suggestion: str
    texts: Texts


class BinOut(BaseModel):
    from_: int = Field(alias="from")
    to: int = Field(description="Included.")
    count: int


class DistributionOut(BaseModel):
    total: int
    min: int
    median: int
    p95: int
    max: int
    histogram: list[BinOut]


class TokenCountsOut(BaseModel):
    max_example_tokens: int | None
    tokens: DistributionOut = Field(description="Examples are counted as they are cut; the total is one epoch's bill.")
    trained_tokens: DistributionOut = Field(description="Tokens with a loss: the answers.")
    num_truncated_examples: int
    num_truncated_tokens: int
    num_prefix_tokens: int = Field(description="Every example begins with the same so many tokens.")
    prefix_share: float = Field(description="Of all tokens, 0 to 1.")
    tokens_per_character: float | None = Field(description="Of the texts; null where there is too little of them.")


class AdviceOut(BaseModel):
    code: str
    message: str
    suggestion: str
    count: int = Field(description="Examples concerned.")
    lines: list[int] = Field(description="The first of them.")
    evidence: list[str]
    texts: Texts


class LongestOut(BaseModel):
    line: int
    tokens: int = Field(description="Before the cut.")


class ReportOut(BaseModel):
    object: Literal["tunery.validation"] = "tunery.validation"
    file: str
    model: str | None
    valid: bool = Field(description="Whether a job would accept the file.")
    role: Role
    method: Method | None
    format: Literal["chat", "preference", "completion"] | None
    num_bytes: int
    num_lines: int
    num_examples: int = Field(description="Without an error.")
    num_errors: int
    num_warnings: int
    problem_counts: dict[str, int] = Field(description="All problems by code.")
    problems: list[ProblemOut] = Field(description="At most 50 of a code and 1,000 in all.")
    messages: DistributionOut | None
    language: str | None = Field(description="ISO 639-1, of most of the texts.")
    token_counts: TokenCountsOut | None
    longest: list[LongestOut]
    advice: list[AdviceOut]


class EstimateCreate(JobCreate):
    """A job, and whether a share of its training file is held back before it is created."""

    validation_share: Share | None = Field(None, description="As for a split; then without `validation_file`.")


class ResolvedOut(BaseModel):
    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    beta: float


class SamplesEstimate(BaseModel):
    """Of the answers to `sample_prompts`, which are paid whether or not the job succeeds."""

    num_answers: int = Field(description="A prompt an epoch.")
    num_tokens: int = Field(description="Read and written, at most.")
    cost: float = Field(description="At most.")


class EstimateOut(BaseModel):
    object: Literal["tunery.estimate"] = "tunery.estimate"
    model: str
    method: Method
    num_examples: int
    num_steps: int = Field(description="Optimizer steps.")
    trained_tokens: int = Field(description="As the finished job will report.")
    hyperparameters: ResolvedOut
    reasons: dict[str, str] = Field(description="Why each hyperparameter has its value.")
    cost: float
    samples: SamplesEstimate | None = Field(description="Null without `sample_prompts`; not part of `cost`.")
    currency: str
    min_s: float = Field(description="Seconds the job will run at least, its place in the queue aside.")
    max_s: float
    time: str = Field(description="The same for people.")
    num_measured_jobs: int = Field(description="Past jobs the time rests on; 0: a short calibration.")
    is_rough_guess: bool = Field(description="The time rests on no job yet and may be off several times either way.")
    peak_memory_bytes: int
    advice: list[AdviceOut]
    texts: Texts


class SegmentOut(BaseModel):
    kind: Literal["context", "trained", "cut"]
    text: str


class RowOut(BaseModel):
    line: int
    example: dict[str, Any] | None = Field(description="Null when the line is no JSON object as training takes it.")
    text: str | None = Field(description="Then the beginning of the line as it stands.")
    problems: list[ProblemOut]
    num_tokens: int | None
    num_trained_tokens: int | None
    segments: list[SegmentOut] = Field(description="The rendered text; empty without a model.")


class FileOut(FileObject):
    sha256: str
    num_rows: int | None = Field(description="Lines that are not blank; null for a file of an earlier version.")
    version: int = Field(description="Of the dataset that it belongs to; 1 for a file that was not made by editing.")


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileOut]
    has_more: bool


class RowList(BaseModel):
    object: Literal["list"] = "list"
    data: list[RowOut]
    has_more: bool


class SplitCreate(Body):
    validation_share: Share = 0.1
    seed: Int = Field(DEFAULT_SEED, ge=0, le=2**31 - 1)


class SplitOut(BaseModel):
    object: Literal["tunery.split"] = "tunery.split"
    training_file: str
    validation_file: str
    num_training: int
    num_validation: int
    num_groups: int = Field(description="Groups of almost equal rows, each kept on one side.")
