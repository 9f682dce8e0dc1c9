"""Limits on the wire: OpenAI's rate limits and spend limit, and ours, which hold everything."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from tunery.api.body import Body
from tunery.domain.numbers import Int

Number = Annotated[Int | None, Field(ge=0, le=10**15)]
UNLIMITED = 1_000_000_000  # OpenAI's shape has no word for it


class RateLimitOut(BaseModel):
    id: str
    object: Literal["project.rate_limit"] = "project.rate_limit"
    model: str
    max_requests_per_1_minute: int
    max_tokens_per_1_minute: int


class RateLimitUpdate(Body):
    """The limits of images, audio and batches mean nothing here and are accepted."""

    max_requests_per_1_minute: Number = None
    max_tokens_per_1_minute: Number = None
    max_requests_per_1_day: Number = None
    max_images_per_1_minute: Number = None
    max_audio_megabytes_per_1_minute: Number = None
    batch_1_day_max_input_tokens: Number = None


class SpendLimitUpdate(Body):
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    interval: Literal["month"]
    threshold_amount: Annotated[Int, Field(ge=1, le=10**12, description="Hundredths of the currency.")]


class Enforcement(BaseModel):
    status: Literal["inactive", "enforcing"]


class SpendLimitOut(BaseModel):
    object: Literal["project.spend_limit"] = "project.spend_limit"
    currency: str
    interval: Literal["month"] = "month"
    threshold_amount: int
    enforcement: Enforcement


class SpendLimitDeleted(BaseModel):
    object: Literal["project.spend_limit.deleted"] = "project.spend_limit.deleted"
    deleted: bool = True


class LimitsBody(Body):
    """Null: nothing said here, so that the project's, or for a project the server's setting decides. 0: no limit."""

    requests_per_minute: Number = None
    tokens_per_minute: Number = None
    max_running_jobs: Number = None
    max_jobs_per_day: Number = None
    max_storage_bytes: Number = None
    monthly_budget: Annotated[Int | None, Field(ge=0, le=9 * 10**12)] = Field(
        None, description="Millionths of the price table's currency."
    )
    warning_percent: Annotated[Int | None, Field(ge=1, le=100)] = None


class KeyLimitsBody(Body):
    """A key's own limits, beside its project's."""

    requests_per_minute: Number = None
    tokens_per_minute: Number = None


class StoredOut(BaseModel):
    """Bytes, as max_storage_bytes counts them."""

    files: int = Field(description="Of every purpose: uploaded, split, results of jobs, reports.")
    upload_parts: int = Field(description="Of uploads that are neither completed nor cancelled.")
    completions: int = Field(description="Stored completions, request and answer as JSON.")
    models: int = Field(description="Adapters of fine-tuned models and of checkpoints.")
    responses: int = Field(description="Stored responses, and the items of conversations.")
    batches: int = Field(description="Answers of batches that have not ended.")
    evals: int = Field(description="Rows of evals' runs, and what came of them.")
    states: int = Field(description="What jobs go on from that have not ended or can be resumed.")
    records: int = Field(
        description="Files, uploads, batches, messages, alias changes and job events beyond 100,000, by number."
    )
    total: int


class LimitsOut(BaseModel):
    object: Literal["project.limits"] = "project.limits"
    project_id: str
    own: LimitsBody = Field(description="What was set for the project.")
    effective: LimitsBody = Field(description="What holds, the server's settings included.")
    spent_this_month: int = Field(description="Millionths of the currency, since the first of the month (UTC).")
    currency: str
    stored: StoredOut


class KeyLimitsOut(BaseModel):
    object: Literal["api_key.limits"] = "api_key.limits"
    api_key_id: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
