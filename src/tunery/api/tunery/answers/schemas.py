"""Stored answers, and training files made of them, on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tunery.api.body import Body
from tunery.api.files.schemas import FileObject
from tunery.api.tunery.datasets.schemas import ReportOut
from tunery.datasets.answers import Problem
from tunery.domain.numbers import Int
from tunery.store.answers import Api, Wanted

MAX_NAMED = 1_000  # answers that one request names, of each kind
Id = Annotated[str, Field(max_length=200)]
Moment = Annotated[Int, Field(ge=0, le=10**11)]


class UsedOut(BaseModel):
    input_tokens: int
    cached_tokens: int
    output_tokens: int


class AnswerOut(BaseModel):
    object: Literal["tunery.stored_answer"] = "tunery.stored_answer"
    id: str
    api: Api
    created_at: int
    model: str
    answered_by: str | None = Field(description="What answers to the name today; null when nothing does any more.")
    weights: str | None = Field(description="The base weights under that; null as well when it is passed on.")
    status: str = Field(description="As a response has it; of a chat `completed` or `incomplete`.")
    problem: Problem | None = Field(description="Why it is no training row as it is.")
    asked: str = Field(description="The beginning of what was said last before the answer.")
    answered: str = Field(description="The beginning of the answer.")
    metadata: dict[str, str]
    usage: UsedOut | None
    cost: float | None = Field(description="By the price of what answers to the name; null without usage.")
    currency: str


class AnswerDetail(AnswerOut):
    messages: list[dict[str, Any]] = Field(description="All that the model was to see, earlier responses included.")
    answer: dict[str, Any] = Field(description="The assistant's message; empty where there is none.")
    tools: list[dict[str, Any]] = Field(description="Those that the model could call, as chat completions have them.")
    error: str | None = Field(description="Of a response that failed.")


class AnswerList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AnswerOut]
    has_more: bool
    next: str | None = Field(description="What to pass as `after` for the next page; null at the end.")
    num_searched: int = Field(
        description="Answers that this request looked at: with `search`, a page may end before it is full."
    )


class CountOut(BaseModel):
    model: str
    day: int = Field(description="Its first second, UTC.")
    num_answers: int


class CountList(BaseModel):
    object: Literal["list"] = "list"
    data: list[CountOut]


class Correction(Body):
    """What the answer should have been. What is null stays."""

    content: str | None = Field(None, max_length=1_000_000)
    tool_calls: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=128)


class DatasetCreate(Body):
    """Which answers: those with these ids, or all that match. What is null or empty excludes none."""

    ids: list[Id] | None = Field(None, max_length=MAX_NAMED, description="These, in place of all that match.")
    api: Api | None = None
    model: str | None = Field(None, max_length=256)
    since: Moment | None = None
    until: Moment | None = Field(None, description="Not included.")
    metadata: dict[str, str] = Field(default_factory=dict, max_length=16)
    search: str = Field("", max_length=200)
    without: list[Id] = Field(default_factory=list, max_length=MAX_NAMED, description="Those to leave out, by id.")
    corrections: dict[str, Correction] = Field(
        default_factory=dict, max_length=MAX_NAMED, description="By id. A corrected answer is a row whatever it was."
    )
    filename: str = Field("answers.jsonl", min_length=1, max_length=255)
    base: str | None = Field(None, max_length=256, description="In a preview, count tokens as this model's base does.")

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.api, self.model, self.since, self.until, self.metadata)


class LeftOut(BaseModel):
    reason: Literal["not_chosen", "gone", "not_one_text"] | Problem
    count: int


class PreviewOut(ReportOut):
    """What `tunery data check` says of the file that would be made."""

    left_out: list[LeftOut]


class DatasetOut(BaseModel):
    object: Literal["tunery.dataset"] = "tunery.dataset"
    file: FileObject
    num_rows: int
    left_out: list[LeftOut]
