"""Evals on the wire. What differs between the kinds of a source is checked in `checks.py`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from tunery.api.body import Body
from tunery.api.chat.routes import ModelName
from tunery.api.graders.schemas import JudgeMessage, LabelModel, Python, ScoreModel, StringCheck, TextSimilarity
from tunery.api.metadata import Metadata
from tunery.api.paging import Resource
from tunery.domain.evals import MAX_CRITERIA, MAX_ROWS, ItemStatus, RunStatus
from tunery.domain.numbers import Int

Json = dict[str, Any]
Name = Annotated[str, Field(max_length=512)]
Moment = Annotated[Int, Field(ge=0, le=10**11)]
SourceType = Literal["file_content", "file_id", "stored_completions", "responses"]
Criterion = Annotated[
    StringCheck | TextSimilarity | ScoreModel | LabelModel | Python, Field(discriminator="type", title="Criterion")
]


class DataSourceConfig(Body):
    type: Literal["custom", "logs", "stored_completions"] = Field(description="`logs`: stored answers.")
    item_schema: Json | None = Field(None, description="A JSON Schema of `item`; of `custom`.")
    include_sample_schema: bool = Field(False, description="Whether criteria may name `sample`; of `custom`.")
    metadata: Metadata | None = Field(None, description="Stored answers must have these pairs; not of `custom`.")


class EvalCreate(Body):
    data_source_config: DataSourceConfig
    testing_criteria: list[Criterion] = Field(min_length=1, max_length=MAX_CRITERIA)
    name: Name | None = None
    metadata: Metadata | None = None


class EvalUpdate(Body):
    name: Name | None = None
    metadata: Metadata | None = None


class RowIn(Body):
    item: Json
    sample: Json | None = Field(None, description="An answer to it: `output_text`, `output_json` and so on.")


class Source(Body):
    type: SourceType
    content: list[RowIn] | None = Field(None, description="The rows themselves; of `file_content`.")
    id: str | None = Field(None, max_length=256, description="Of a JSONL file with a row a line; of `file_id`.")
    model: ModelName | None = Field(None, description="Stored answers of this model.")
    metadata: Metadata | None = Field(None, description="Stored answers with these pairs.")
    created_after: Moment | None = None
    created_before: Moment | None = None
    limit: Int | None = Field(None, ge=1, le=MAX_ROWS, description="Of stored answers, the newest so many.")
    instructions_search: str | None = Field(None, max_length=1000, description="Text in a response's instructions.")
    temperature: float | None = None
    top_p: float | None = None
    tools: list[str] | None = Field(None, max_length=128, description="Names of tools that the response was given.")
    users: list[str] | None = Field(None, max_length=128)
    reasoning_effort: str | None = None


class InputMessages(Body):
    type: Literal["template", "item_reference"]
    template: list[JudgeMessage] | None = Field(None, min_length=1, max_length=100)
    item_reference: str | None = Field(None, max_length=1000, description="Such as `item.input`: a list of messages.")


class DataSource(Body):
    type: Literal["jsonl", "completions", "responses"]
    source: Source
    model: ModelName | None = Field(None, description="Which answers the rows; not of `jsonl`.")
    input_messages: InputMessages | None = Field(None, description="What it is asked; not of `jsonl`.")
    sampling_params: Json | None = Field(None, description="Parameters of the request; not of `jsonl`.")


class RunCreate(Body):
    data_source: DataSource
    name: Name | None = None
    metadata: Metadata | None = None


class EvalObject(Resource):
    object: Literal["eval"] = "eval"
    id: str
    name: str
    created_at: int
    metadata: dict[str, str] | None
    data_source_config: Json = Field(description="With the `schema` of a whole row.")
    testing_criteria: list[Json] = Field(description="Each with the `id` under which results name it.")


class ResultCounts(BaseModel):
    total: int = Field(description="Rows; 0 until the run has begun.")
    errored: int
    failed: int
    passed: int


class ModelUsage(BaseModel):
    model_name: str
    invocation_count: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    total_tokens: int


class CriterionCounts(BaseModel):
    testing_criteria: str = Field(description="The criterion's `id`.")
    passed: int
    failed: int
    errored: int = Field(description="Rows that it could not grade, which are neither.")


class EvalError(BaseModel):
    code: str
    message: str


class RunObject(BaseModel):
    object: Literal["eval.run"] = "eval.run"
    id: str
    eval_id: str
    status: RunStatus
    model: str
    name: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    report_url: str
    result_counts: ResultCounts
    per_model_usage: list[ModelUsage]
    per_testing_criteria_results: list[CriterionCounts]
    data_source: Json
    metadata: dict[str, str]
    error: EvalError | None


class OutputItemObject(BaseModel):
    object: Literal["eval.run.output_item"] = "eval.run.output_item"
    id: str
    run_id: str
    eval_id: str
    created_at: int
    status: ItemStatus
    datasource_item_id: int = Field(description="Which of the rows it is, from 0.")
    datasource_item: Json
    results: list[Json] = Field(description="One for each criterion: name, type, score, passed, and a judge's sample.")
    sample: Json


class DeletedEval(BaseModel):
    object: Literal["eval.deleted"] = "eval.deleted"
    deleted: bool = True
    eval_id: str


class DeletedRun(BaseModel):
    object: Literal["eval.run.deleted"] = "eval.run.deleted"
    deleted: bool = True
    run_id: str
