"""Usage and costs on the wire: pages of buckets of results."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, Field

Result = TypeVar("Result", bound=BaseModel)


class UsageResult(BaseModel):
    """Group keys are null where the report is not grouped by them."""

    object: Literal["organization.usage.completions.result"] = "organization.usage.completions.result"
    num_model_requests: int
    input_tokens: int = Field(description="Cached ones included.")
    input_cached_tokens: int
    input_uncached_tokens: int
    output_tokens: int
    input_text_tokens: int
    output_text_tokens: int
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    model: str | None = None
    batch: bool | None = None
    service_tier: str | None = None
    api_source: Literal["unlabeled"] | None = None


class EmbeddingsResult(BaseModel):
    object: Literal["organization.usage.embeddings.result"] = "organization.usage.embeddings.result"
    num_model_requests: int
    input_tokens: int
    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    model: str | None = None


class Amount(BaseModel):
    value: float = Field(description="For people; the CSV export has the exact decimal.")
    currency: str


class CostResult(BaseModel):
    object: Literal["organization.costs.result"] = "organization.costs.result"
    amount: Amount
    line_item: str | None = None
    quantity: float | None = None
    quantity_unit: Literal["tokens"] | None = None
    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    api_source: Literal["unlabeled"] | None = None


class Bucket(BaseModel, Generic[Result]):
    object: Literal["bucket"] = "bucket"
    start_time: int
    end_time: int
    results: list[Result]


class BucketPage(BaseModel, Generic[Result]):
    object: Literal["page"] = "page"
    data: list[Bucket[Result]]
    has_more: bool
    next_page: str | None
