"""Graders on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from tunery.api.body import Body
from tunery.domain.numbers import Int

Metric = Literal[
    "cosine",
    "fuzzy_match",
    "bleu",
    "gleu",
    "meteor",
    "rouge_1",
    "rouge_2",
    "rouge_3",
    "rouge_4",
    "rouge_5",
    "rouge_l",
]
Text = Annotated[str, Field(max_length=1_000_000)]
Name = Annotated[str, Field(max_length=256)]


class StringCheck(Body):
    type: Literal["string_check"]
    name: Name = ""
    input: Text
    reference: Text
    operation: Literal["eq", "ne", "neq", "like", "ilike"] = Field(description="OpenAI's guide calls `ne` `neq`.")


class TextSimilarity(Body):
    type: Literal["text_similarity"]
    name: Name = ""
    input: Text
    reference: Text
    evaluation_metric: Metric
    pass_threshold: float | None = None


class TextPart(Body):
    type: Literal["input_text", "output_text", "text"] = Field(description="The models here read text alone.")
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _of_another_type(cls, value: Any) -> Any:
        """Of a part of another type only that is told, and not what it lacks as a text."""
        known = value.get("type") if isinstance(value, dict) else "text"
        return value if known in ("input_text", "output_text", "text") else {"type": known, "text": ""}


class JudgeMessage(Body):
    role: Literal["user", "assistant", "system", "developer"]
    content: Text | TextPart | Annotated[list[Text | TextPart], Field(max_length=100)]
    type: Literal["message"] | None = None

    @property
    def text(self) -> str:
        """The template: all parts in one."""
        parts = self.content if isinstance(self.content, list) else [self.content]
        return "".join(part if isinstance(part, str) else part.text for part in parts)


class SamplingParams(Body):
    max_completions_tokens: Int | None = Field(None, ge=1, le=100_000)
    reasoning_effort: str | None = None
    seed: Int | None = Field(None, ge=-(2**63), lt=2**63)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)


class ScoreModel(Body):
    type: Literal["score_model"]
    name: Name = ""
    model: str = Field(min_length=1, max_length=256)
    input: list[JudgeMessage] = Field(min_length=1, max_length=100)
    range: list[float] | None = Field(None, min_length=2, max_length=2, description="Lowest and highest, 0 and 1.")
    sampling_params: SamplingParams | None = None
    pass_threshold: float | None = None


class LabelModel(Body):
    type: Literal["label_model"]
    name: Name = ""
    model: str = Field(min_length=1, max_length=256)
    input: list[JudgeMessage] = Field(min_length=1, max_length=100)
    labels: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(min_length=1, max_length=100)
    passing_labels: list[str] = Field(min_length=1, max_length=100)
    sampling_params: SamplingParams | None = None


class Python(Body):
    type: Literal["python"]
    name: Name = ""
    source: Text = Field(description="Python that defines `grade(sample, item)`, which returns a number.")
    image_tag: str | None = Field(None, description="Taken and not used: there is one image, this server's packages.")
    pass_threshold: float | None = None


SingleGrader = Annotated[StringCheck | TextSimilarity | ScoreModel | Python, Field(discriminator="type")]


class Multi(Body):
    type: Literal["multi"]
    name: Name = ""
    graders: dict[str, SingleGrader] | SingleGrader = Field(
        description="By the names that the formula uses, or one grader under its own name."
    )
    calculate_output: str = Field(min_length=1, max_length=2000)

    def by_name(self) -> dict[str, StringCheck | TextSimilarity | ScoreModel | Python]:
        return self.graders if isinstance(self.graders, dict) else {self.graders.name: self.graders}


Grader = Annotated[StringCheck | TextSimilarity | ScoreModel | Python | Multi, Field(discriminator="type")]


class GraderRun(Body):
    grader: Grader | LabelModel = Field(
        discriminator="type",
        description="`label_model`, too, which OpenAI takes in evals alone: 1 for one that passes.",
    )
    model_sample: Text
    item: dict[str, Any] = Field(default_factory=dict)


class GraderValidate(Body):
    grader: Grader


class Validated(BaseModel):
    grader: dict[str, Any] = Field(description="The grader as it was sent.")


class Errors(BaseModel):
    formula_parse_error: bool = False
    invalid_variable_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_server_error: bool = False
    model_grader_server_error_details: str | None = None
    other_error: bool = False
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    sample_parse_error: bool = False
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False


class Metadata(BaseModel):
    errors: Errors
    execution_time: float = Field(description="Seconds.")
    name: str
    sampled_model_name: str | None
    scores: dict[str, Any]
    token_usage: int | None
    type: str


class GraderResult(BaseModel):
    metadata: Metadata
    model_grader_token_usage_per_model: dict[str, Any]
    reward: float
    sub_rewards: dict[str, Any]
