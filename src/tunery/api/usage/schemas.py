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


class DaySpent(BaseModel):
    start_time: int
    amount: float


class ForecastOut(BaseModel):
    """The month's whole sum. Low and high are a 95 % interval, if the days to come are like those it is based on."""

    mean: float
    low: float
    high: float


class SpendingOut(BaseModel):
    """A project's month (UTC). Amounts are whole units of the currency, for people; the CSV export is exact."""

    object: Literal["project.spending"] = "project.spending"
    project_id: str
    currency: str
    start_time: int = Field(description="The month's first second.")
    end_time: int = Field(description="The next month's.")
    days: list[DaySpent] = Field(description="Up to today, whose day is not over.")
    spent: float
    budget: float | None = Field(description="A month's, as the project's spend limit or the server's setting says.")
    forecast: ForecastOut | None = Field(description="Null while fewer than `needed_days` are known.")
    known_days: int = Field(
        description="Whole days the forecast is based on: of the last 28, from the first with a cost."
    )
    needed_days: int
