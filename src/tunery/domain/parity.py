"""The parity report as it is kept: JSON Lines, first everything but the rows, then a row a line. `tunery migrate openai
report` writes it, the dashboard reads it; anyone may upload such a file, so every value is checked.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat
from pydantic.dataclasses import dataclass

from tunery.domain.intervals import Interval

YEAR_2200 = 7_258_118_400

Verdict = Literal["yes", "no", "not enough data"]
Measure = Literal["exact", "similarity", "agreement"]  # what a row's score is
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class ModelSummary:
    model: str
    num_rows: Count
    num_errors: Count
    score: Interval  # of the chosen measure against the expected answers
    exact_match: Share | None  # None when the file has no expected answers
    similarity: Share | None
    agreement: Share  # mean similarity to the old model's answers
    refusals: Share
    mean_words: FiniteFloat
    mean_logprob: FiniteFloat | None
    latency_p50_ms: FiniteFloat
    prompt_tokens: Count
    completion_tokens: Count


@dataclass(frozen=True)
class Decision:
    safe_to_switch: Verdict
    reason: str
    difference: Interval  # score of new minus score of old, paired by row


@dataclass(frozen=True)
class Money:
    amount: Annotated[FiniteFloat, Field(ge=0)]
    currency: Annotated[str, Field(max_length=8)]


@dataclass(frozen=True)
class Costs:
    """Of a thousand requests like those of the report; None where price or usage is not known."""

    old: Money | None
    new: Money | None
    base: Money | None


@dataclass(frozen=True)
class Parity:
    object: Literal["tunery.parity_report"]
    created_at: Annotated[int, Field(ge=0, lt=YEAR_2200)]
    decision: Decision
    measure: Measure
    margin: Share
    min_rows: Count
    old: ModelSummary
    new: ModelSummary
    base: ModelSummary | None
    costs: Costs

    @property
    def models(self) -> list[tuple[str, ModelSummary, Money | None]]:
        """Role, summary and cost of each that was asked."""
        costs = self.costs
        every = (("old", self.old, costs.old), ("base", self.base, costs.base), ("new", self.new, costs.new))
        return [(role, summary, cost) for role, summary, cost in every if summary is not None]


@dataclass(frozen=True)
class RowAnswer:
    text: str  # the error's text when the model gave no answer
    failed: bool
    score: Share  # by the report's measure


@dataclass(frozen=True)
class ParityRow:
    row: int  # 1-based line of the file that was asked
    messages: list[dict[str, Any]]
    expected: str | None
    old: RowAnswer
    new: RowAnswer
    similarity: Share  # of the two answers; 1 = the same but for space, case and the final stop
