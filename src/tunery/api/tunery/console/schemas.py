"""What the dashboard and the command line ask beyond OpenAI's API, on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tunery.api.body import Body, Texts
from tunery.api.fine_tuning.schemas import CheckpointOut, Event, Job
from tunery.api.metadata import Metadata
from tunery.api.paging import Resource
from tunery.domain.evals import RunStatus
from tunery.domain.intervals import Interval
from tunery.domain.jobs import JobStatus, Method

Curve = list[tuple[int, float]]


class ProjectRef(BaseModel):
    id: str
    name: str


class SessionOut(BaseModel):
    object: Literal["tunery.session"] = "tunery.session"
    organization_id: str
    organization: str
    project_id: str
    projects: list[ProjectRef] = Field(description="Those that the key may name in the OpenAI-Project header.")
    role: Literal["owner", "member", "reader"]
    is_owner: bool = Field(description="May manage keys, members and limits and read the audit log.")


class JobSummary(Resource):
    id: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    elapsed_s: int | None = Field(
        description="Seconds from the first start to now or to the end, without pauses; null before the start."
    )
    estimated_finish: int | None = Field(description="Unix seconds; null unless the job is running.")
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    pausing: bool = Field(description="Asked to pause while running; it will have paused within seconds.")
    resumable: bool = Field(description="May be resumed: it is paused, or has failed and what it had reached is kept.")
    display_name: str | None = Field(description="Its owner's own words for it.")
    tags: list[str] = Field(description="Its owner's as well.")
    metadata: dict[str, str] | None
    model: str
    weights: str = Field(description="What the model stands on: the base weights' name and hash.")
    fine_tuned_model: str | None
    suffix: str | None = Field(description="As it was sent.")
    method: Method
    step: int = Field(description="Optimizer steps done.")
    total_steps: int | None
    loss: float | None = Field(
        description="At the end, or else at the newest checkpoint: over the validation file, or without one that of "
        "training. Null before."
    )
    trained_tokens: int | None
    cost: float | None = Field(description="Null until the job has succeeded: nothing else costs.")
    currency: str


class JobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JobSummary]
    has_more: bool


class JobDetail(JobSummary):
    notes: str | None = Field(description="Its owner's.")
    hyperparameters: dict[str, int | float | str]
    reasons: dict[str, str] = Field(description="Why each hyperparameter has its value, in a sentence.")
    details: dict[str, Any] = Field(description="What the worker noted: advice, parity with the engine, timings.")
    request: dict[str, Any] = Field(description="The body that creates this job again.")
    sample_prompts: list[list[dict[str, str]]] | None = Field(description="The messages of each.")
    texts: Texts


class JobView(BaseModel):
    """All that a page about one job shows, of one moment."""

    object: Literal["tunery.job_view"] = "tunery.job_view"
    detail: JobDetail
    job: Job
    curves: "Curves"
    events: list[Event] = Field(description="The newest first.")
    checkpoints: list[CheckpointOut]
    files: dict[str, "FileRef"] = Field(description="Its files by id.")


DisplayName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64, pattern=r"^[^\n]*$")]


class ModelWords(Body):
    """What is left out stays as it is."""

    display_name: DisplayName | None = Field(None, description="At most 200 characters; null removes it.")
    card: str | None = Field(
        None,
        max_length=50_000,
        description="What it is for and what it cannot, in Markdown; null removes it.",
    )


class JobWords(Body):
    """What is left out stays as it is."""

    display_name: DisplayName | None = Field(None, description="At most 200 characters; null removes it.")
    notes: str | None = Field(None, max_length=20_000, description="Null removes them.")
    tags: list[Tag] = Field([], max_length=16, description="In place of those that it has.")
    metadata: Metadata | None = Field(
        None, description="In place of what it has, but for what the server acts on, such as `run_eval`: that stays."
    )


class ModelName(BaseModel):
    object: Literal["tunery.model_name"] = "tunery.model_name"
    name: str = Field(description="The name a job's model will have; `…` stands for the eight characters drawn then.")
    suffix: str = Field(description="The suffix as it stands in the name.")


class Curves(BaseModel):
    """Pairs of step and value, at most about `points` each."""

    train_loss: Curve
    train_mean_token_accuracy: Curve
    valid_loss: Curve
    valid_mean_token_accuracy: Curve
    full_valid_loss: Curve
    full_valid_mean_token_accuracy: Curve


class PriceOut(BaseModel):
    """Per million tokens, in `currency`."""

    training: float
    input: float
    cached_input: float
    output: float
    currency: str


class Weights(BaseModel):
    """What stands under a model's name."""

    name: str = Field(description="For people: the base weights' name, the beginning of their hash where it is known.")
    source: str = Field(description="Where they come from, as in the catalog.")
    adapter: str | None = Field(description="The adapter of a fine-tuned model on top of them.")


class LearnedFile(BaseModel):
    """A training file of the model, or of one that it goes on from, or a file that such a one was split from."""

    id: str | None = Field(description="Null for another project's, and for what was split.")
    sha256: str | None = Field(description="Null when the file is no more.")


class CatalogEntry(BaseModel):
    name: str
    aliases: list[str] = Field(description="The catalog's and the project's own other names for it.")
    kind: Literal["base", "fine-tuned", "embedding"]
    base: str
    training: bool = Field(description="Whether a job may be created on it.")
    context_length: int
    max_example_tokens: int
    price: PriceOut
    weights: Weights
    answered_by: Weights | None = Field(
        description="Set where an alias of the project has taken the name: what answers to it. Jobs train on `weights`."
    )
    same_weights: list[str] = Field(description="Other base models that answer with the very same weights.")
    learned_from: list[LearnedFile]
    display_name: str | None = Field(description="Its owner's own words for it.")
    job_id: str | None
    step_number: int | None = Field(description="Set for a checkpoint before the last.")
    created_at: int | None


class CatalogOut(BaseModel):
    object: Literal["list"] = "list"
    data: list[CatalogEntry]
    has_more: bool = Field(description="Whether there are more fine-tuned models than were asked for.")


class FileRef(BaseModel):
    id: str
    filename: str | None = Field(description="Null: it is no more.")
    version: int | None = Field(description="Of its dataset. Null: it is no more.")
    sha256: str | None


class MadeBy(BaseModel):
    """The job that made a model."""

    id: str
    display_name: str | None
    model: str = Field(description="What it started from.")
    method: Method
    hyperparameters: dict[str, int | float | str]
    training_file: FileRef
    validation_file: FileRef | None
    trained_tokens: int | None
    cost: float | None
    metrics: dict[str, float] = Field(description="Measured where the model's checkpoint was made.")


class RunOfModel(BaseModel):
    eval_id: str
    eval_name: str
    run_id: str
    created_at: int
    status: RunStatus
    passed: int
    graded: int
    share: Interval = Field(description="Of the graded rows that passed, with its 95 % interval.")


class UsageDay(BaseModel):
    start_time: int
    num_requests: int
    input_tokens: int
    cached_tokens: int = Field(description="Of the input tokens.")
    output_tokens: int
    cost: float


class ModelSibling(BaseModel):
    name: str
    step_number: int | None
    created_at: int


class JobRef(BaseModel):
    id: str
    display_name: str | None
    status: JobStatus


class Dependents(BaseModel):
    """What would miss the model: names that lead to it, jobs that go on from it, runs that ask it, projects."""

    aliases: list[str]
    jobs: list[JobRef] = Field(description="The newest that go on from it.")
    num_unfinished_runs: int
    num_projects: int = Field(description="That it is shared with.")


class ModelDetail(CatalogEntry):
    object: Literal["tunery.model"] = "tunery.model"
    card: str | None
    is_own: bool = Field(description="False for a model that another project shares with this one.")
    num_bytes: int = Field(description="Of the adapter; 0 where that is not known.")
    base_sha256: dict[str, str] | None = Field(description="Of the base's files of weights that it was trained on.")
    made_by: MadeBy | None = Field(description="Null for a model that was imported, and for one of another project.")
    checkpoints: list[ModelSibling] = Field(description="The other models of its job, highest step first.")
    evaluations: list[RunOfModel] = Field(description="The newest runs that asked it.")
    usage: list[UsageDay] = Field(description="Of this project, the last 30 days, those without requests left out.")
    dependents: Dependents | None = Field(description="Null for a model that is only shared with this project.")


class ScoreRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=256)
    messages: list[dict[str, Any]] = Field(
        min_length=2, max_length=1000, description="The last one is the assistant's answer that is scored."
    )
    tools: list[dict[str, Any]] | None = None


class ScoreOut(BaseModel):
    """How likely the model finds the last message, given those before it."""

    object: Literal["tunery.score"] = "tunery.score"
    model: str
    num_tokens: int = Field(description="Tokens of the answer, its end included.")
    mean_logprob: float
    num_greedy_tokens: int = Field(description="Tokens that the model would have chosen itself at their place.")
