"""Fine-tuning on the wire: what a request may say, and domain objects as OpenAI's JSON."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tunery.api.body import Body, Texts
from tunery.api.paging import Resource
from tunery.domain.hyperparameters import AUTO, Hyperparameters
from tunery.domain.jobs import FineTuningJob, JobEvent, JobStatus
from tunery.domain.numbers import Int
from tunery.jobs.requests import MAX_SAMPLE_PROMPTS, JobRequest
from tunery.settings import Settings

AutoInt = Literal["auto"] | Int
AutoFloat = Literal["auto"] | float


class HyperparametersIn(Body):
    n_epochs: AutoInt | None = Field(None, description="1 to 50, or `auto`.")
    batch_size: AutoInt | None = Field(None, description="1 to 256, or `auto`.")
    learning_rate_multiplier: AutoFloat | None = Field(None, description="More than 0, or `auto`.")


class DpoHyperparametersIn(HyperparametersIn):
    beta: AutoFloat | None = Field(None, description="More than 0 and at most 2, or `auto`.")


class SupervisedIn(Body):
    hyperparameters: HyperparametersIn | None = None


class DpoIn(Body):
    hyperparameters: DpoHyperparametersIn | None = None


class MethodIn(Body):
    """Settings of the methods that `type` does not name are accepted and not used, as OpenAI does."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedIn | None = None
    dpo: DpoIn | None = None
    reinforcement: dict[str, Any] | None = None


class WandbIn(Body):
    project: str = Field(min_length=1)
    name: str | None = None
    entity: str | None = None
    tags: list[Annotated[str, Field(max_length=64)]] | None = Field(None, max_length=50)


class IntegrationIn(Body):
    type: Literal["wandb"]
    wandb: WandbIn


class PromptMessage(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str = Field(min_length=1, max_length=20_000)


SamplePrompt = (
    Annotated[str, Field(min_length=1, max_length=20_000)]
    | Annotated[list[PromptMessage], Field(min_length=1, max_length=50)]
)


class JobCreate(Body):
    model: str = Field(min_length=1, max_length=256)
    training_file: str = Field(min_length=1, max_length=200)
    validation_file: str | None = Field(None, max_length=200)
    method: MethodIn | None = None
    hyperparameters: HyperparametersIn | None = Field(None, description="Deprecated: use `method`.", deprecated=False)
    suffix: str | None = Field(None, description="1 to 64 characters.")
    seed: Int | None = Field(None, description="0 to 2147483647.")
    integrations: list[IntegrationIn] | None = Field(None, max_length=5)
    metadata: dict[str, str] | None = Field(None, description="At most 16 pairs.")
    sample_prompts: list[SamplePrompt] | None = Field(
        None,
        max_length=MAX_SAMPLE_PROMPTS,
        description="Ours: questions, or conversations that end with one, which each checkpoint answers while the job "
        "trains, at the price of the tuned model.",
    )

    def to_request(self) -> JobRequest:
        own = self._of_method()
        chosen = own or self.hyperparameters
        return JobRequest(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file,
            method=self.method.type if self.method else "supervised",
            hyperparameters=Hyperparameters(**(chosen.model_dump(exclude_none=True) if chosen else {})),
            is_flat=own is None,
            suffix=self.suffix,
            seed=self.seed,
            integrations=[entry.model_dump(exclude_none=True) for entry in self.integrations or ()] or None,
            metadata=self.metadata,
            sample_prompts=[_messages(prompt) for prompt in self.sample_prompts or ()] or None,
        )

    def _of_method(self) -> HyperparametersIn | None:
        """They win over the deprecated top-level object, which most third-party clients still send."""
        if self.method is None:
            return None
        selected = self.method.dpo if self.method.type == "dpo" else self.method.supervised
        return selected.hyperparameters if selected else None


def _messages(prompt: SamplePrompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [each.model_dump() for each in prompt]


class JobErrorOut(Resource):
    code: str
    message: str
    param: str | None


class HyperparametersOut(Resource):
    n_epochs: AutoInt
    batch_size: AutoInt
    learning_rate_multiplier: AutoFloat


class DpoHyperparametersOut(HyperparametersOut):
    beta: AutoFloat


class SupervisedOut(BaseModel):
    hyperparameters: HyperparametersOut


class DpoOut(BaseModel):
    hyperparameters: DpoHyperparametersOut


class SupervisedMethodOut(BaseModel):
    type: Literal["supervised"] = "supervised"
    supervised: SupervisedOut


class DpoMethodOut(BaseModel):
    type: Literal["dpo"] = "dpo"
    dpo: DpoOut


class Job(Resource):
    """Clients with closed types read this: `error` is null or complete, `hyperparameters` always an object."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    id: str
    created_at: int
    error: JobErrorOut | None = Field(description="Set when the job failed.")
    estimated_finish: int | None = Field(description="Unix seconds while running, else null.")
    fine_tuned_model: str | None = Field(description="Null until the job has succeeded.")
    finished_at: int | None = Field(description="Unix seconds; null until the job has ended.")
    hyperparameters: HyperparametersOut = Field(description="`auto` until the job has started, then numbers.")
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None
    method: SupervisedMethodOut | DpoMethodOut
    model: str
    organization_id: str
    result_files: list[str]
    seed: int
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    trained_tokens: int | None = Field(description="Null until the job has ended.")
    training_file: str
    validation_file: str | None
    user_provided_suffix: str | None


class Event(Resource):
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: str
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    data: dict[str, Any] | None
    type: Literal["message", "metrics"]
    texts: Texts = Field({}, description="Beside OpenAI's fields: the message's `key` and `params`, to translate it.")


class CheckpointOut(Resource):
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str = Field(validation_alias="job_id")
    metrics: dict[str, float]
    step_number: int


class PermissionsCreate(Body):
    project_ids: list[str] = Field(min_length=1, max_length=100)


class Permission(Resource):
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    id: str
    created_at: int
    project_id: str


class DeletedPermission(BaseModel):
    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    id: str
    deleted: bool = True


def wire_job(job: FineTuningJob, settings: Settings) -> Job:
    is_running, is_paused = job.status is JobStatus.RUNNING, job.status is JobStatus.PAUSED
    differing = {
        "estimated_finish": job.estimated_finish if is_running else None,
        "method": wire_method(job),
        "status": settings.paused_status if is_paused else job.status.value,
        "user_provided_suffix": job.suffix,
    }
    return Job.of({**vars(job), **differing})


def wire_method(job: FineTuningJob) -> SupervisedMethodOut | DpoMethodOut:
    chosen = job.hyperparameters
    if job.method == "dpo":
        return DpoMethodOut(
            dpo=DpoOut(hyperparameters=DpoHyperparametersOut.of(replace(chosen, beta=chosen.beta or AUTO)))
        )
    return SupervisedMethodOut(supervised=SupervisedOut(hyperparameters=HyperparametersOut.of(chosen)))


def wire_event(event: JobEvent) -> Event:
    return Event.of({**vars(event), "texts": {"message": event.text} if event.text else {}})
