"""A comparison of a held-out file's answers by two or three contestants: what each came to, in one sentence, in figures
and row by row; and its file, JSON Lines, first the summary, then a row an example."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, NonNegativeFloat, NonNegativeInt

from tunery.domain.intervals import Interval, bootstrap, bootstrap_counts
from tunery.domain.names import parse_name

PURPOSE = "evals"
PREFIX = "comparison-"
YEAR_2200 = 7_258_118_400
DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")

Side = Literal["better", "worse", "unclear"]


class Contestant(BaseModel, frozen=True):
    model: str
    shots: NonNegativeInt  # examples of the training file put before each question; 0 = the bare model

    @property
    def label(self) -> str:
        return f"{self.model} +{self.shots}" if self.shots else self.model

    @property
    def short_label(self) -> str:
        """For a chart's axis: of a fine-tune its suffix, else its id; of a base its name without the date."""
        name = parse_name(self.model)
        short = (name.suffix or name.id) if name else DATE.sub("", self.model)
        return f"{short} +{self.shots}" if self.shots else short


class Plan(BaseModel, frozen=True):
    file_id: str
    filename: str
    contestants: tuple[Contestant, ...] = Field(min_length=1, max_length=10)
    max_rows: NonNegativeInt
    shots_file: str | None = None  # where the few-shot examples come from


@dataclass
class Comparison:
    id: str
    plan: Plan
    created_at: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: list[dict[str, Any]] = field(default_factory=list)

    def as_file(self) -> bytes:
        """What `read_result` reads."""
        head = {"plan": self.plan.model_dump(), "created_at": self.created_at, "summary": self.summary}
        lines = [json.dumps(item, ensure_ascii=False) for item in (head, *self.rows)]
        return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True)
class Verdict:
    """The first contestant against another one, on the rows that both have answered."""

    other: int
    side: Side
    measure: Literal["is_exact", "similarity"]
    mine: float
    theirs: float
    difference: Interval
    rows: int


def verdicts(comparison: Comparison) -> list[Verdict]:
    """By exact answers; where hardly one is exact, as of long texts, by how similar they are."""
    return [_verdict(comparison, other) for other in range(1, len(comparison.plan.contestants)) if comparison.rows]


def _verdict(comparison: Comparison, other: int) -> Verdict:
    pairs = [(row["answers"][0], row["answers"][other]) for row in comparison.rows]
    pairs = [pair for pair in pairs if not any(answer["error"] for answer in pair)]
    is_label = any(answer["is_exact"] for pair in pairs for answer in pair)
    has_similarity = bool(pairs) and all(answer.get("similarity") is not None for pair in pairs for answer in pair)
    measure = "similarity" if has_similarity and not is_label else "is_exact"
    values = [(float(mine[measure]), float(theirs[measure])) for mine, theirs in pairs]
    differences = [mine - theirs for mine, theirs in values]
    found = bootstrap_counts(Counter(differences)) if measure == "is_exact" else bootstrap(np.array(differences))
    count = max(1, len(values))
    return Verdict(
        other=other,
        side="better" if found.low > 0 else "worse" if found.high < 0 else "unclear",
        measure=measure,
        mine=sum(mine for mine, _ in values) / count,
        theirs=sum(theirs for _, theirs in values) / count,
        difference=found,
        rows=len(values),
    )


def summarise(
    comparison: Comparison, weights: Callable[[str], str], currency: Callable[[str], str]
) -> list[dict[str, Any]]:
    """A summary a contestant, over the rows that it answered."""
    return [
        _summary(contestant, [row["answers"][at] for row in comparison.rows])
        | {"weights": weights(contestant.model), "currency": currency(contestant.model)}
        for at, contestant in enumerate(comparison.plan.contestants)
    ]


def _summary(contestant: Contestant, every: list[dict[str, Any]]) -> dict[str, Any]:
    answers = [answer for answer in every if not answer["error"]]
    count = max(1, len(answers))

    def mean(name: str) -> float:
        return sum(answer[name] or 0 for answer in answers) / count

    means = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost", "similarity")
    return {
        "label": contestant.label,
        "model": contestant.model,
        "shots": contestant.shots,
        "num_errors": len(every) - len(answers),
        "exact": mean("is_exact"),
        **{name: mean(name) for name in means},
    }


# A comparison's file. Anyone may upload a file of this name and purpose, so all that is read is checked.


class _Summary(BaseModel):
    label: str
    model: str
    weights: str = ""  # not told by those of earlier versions
    shots: NonNegativeInt
    num_errors: NonNegativeInt = 0
    exact: NonNegativeFloat
    similarity: NonNegativeFloat | None = None  # not measured by earlier versions, which measured the next three
    token_accuracy: NonNegativeFloat | None = None
    mean_logprob: FiniteFloat | None = None
    seconds: NonNegativeFloat | None = None
    prompt_tokens: NonNegativeFloat
    cached_tokens: NonNegativeFloat
    completion_tokens: NonNegativeFloat
    cost: NonNegativeFloat
    currency: str


class _Head(BaseModel):
    plan: Plan
    created_at: float = Field(ge=0, lt=YEAR_2200)
    summary: list[_Summary]


class _Answer(BaseModel):
    text: str
    error: str = ""
    is_exact: bool = False
    similarity: FiniteFloat | None = None


class _Row(BaseModel):
    line: NonNegativeInt
    prompt: list[dict[str, Any]]
    expected: str
    answers: list[_Answer]
    differs: bool


def read_result(file_id: str, text: str) -> Comparison:
    """A comparison from its file. Raises ValueError when the file is something else."""
    try:
        head, *lines = [line for line in text.split("\n") if line.strip()]
        stored = _Head.model_validate_json(head)
        rows = [_Row.model_validate_json(line) for line in lines]
    except ValueError as exc:
        raise ValueError(f"{file_id} is not a comparison") from exc
    count = len(stored.plan.contestants)
    if len(stored.summary) not in (0, count) or any(len(row.answers) != count for row in rows):
        raise ValueError(f"{file_id} is not a whole comparison")
    found = Comparison(file_id, stored.plan, stored.created_at)
    found.summary = [item.model_dump() for item in stored.summary]
    found.rows = [row.model_dump() for row in rows]
    return found
