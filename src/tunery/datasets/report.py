"""The outcome of a validation, the same for the command line, the API, the dashboard and a job."""

from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from tunery.chat.examples import Format
from tunery.datasets.facts import Facts, Lengths
from tunery.datasets.problems import Problem
from tunery.domain.jobs import Method
from tunery.texts import with_texts

Role = Literal["training", "validation"]


@dataclass(frozen=True)
class Distribution:
    """How a number spreads over the examples."""

    total: int
    min: int
    median: int
    p95: int
    max: int
    histogram: list[dict[str, int]]  # {"from", "to", "count"}, both ends included


@dataclass(frozen=True)
class TokenCounts:
    """With the tokenizer and template of the base model. An example beyond the limit is counted as it is cut."""

    max_example_tokens: int | None
    tokens: Distribution  # its total is what one epoch is billed for
    trained_tokens: Distribution  # tokens with a loss: the answers
    num_truncated_examples: int
    num_truncated_tokens: int
    num_prefix_tokens: int  # every example begins with the same so many tokens
    prefix_share: float  # of all tokens, 0..1
    tokens_per_character: float | None  # of the texts; None: too little of them


@dataclass(frozen=True)
class Advice:
    """Something its owner should look at. Never blocks a job."""

    code: str
    message: str
    suggestion: str
    count: int = 0  # examples concerned
    lines: list[int] = field(default_factory=list)  # the first of them, 1-based
    evidence: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return with_texts(asdict(self))


def read_advice(document: dict[str, Any]) -> Advice:
    """What `to_dict` wrote; keys beside it are left alone."""
    return Advice(**{name.name: document[name.name] for name in fields(Advice) if name.name in document})


@dataclass(frozen=True)
class Report:
    role: Role
    method: Method | None
    format: Format | None  # None: no example could be read
    num_bytes: int
    num_lines: int
    num_examples: int  # without an error: those a job would train on
    problems: list[Problem]  # in the order of lines, at most 50 of a code and 1,000 in all
    problem_counts: Counter[str]  # all of them
    messages: Distribution | None
    language: str | None  # ISO 639-1, of most of the texts
    tokens: TokenCounts | None  # None: no base model was given, or no example is good
    longest: list[tuple[int, int]]  # (tokens before the cut, line)
    facts: Facts = field(repr=False)  # for advice over two files
    advice: list[Advice] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        return sum(n for code, n in self.problem_counts.items() if Problem(code, 0, "", "").severity == "error")

    @property
    def num_warnings(self) -> int:
        return self.problem_counts.total() - self.num_errors

    @property
    def is_valid(self) -> bool:
        """Whether a job would accept the file."""
        return self.num_errors == 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON, on the command line and on the wire alike."""
        return {
            "valid": self.is_valid,
            "role": self.role,
            "method": self.method,
            "format": self.format,
            "num_bytes": self.num_bytes,
            "num_lines": self.num_lines,
            "num_examples": self.num_examples,
            "num_errors": self.num_errors,
            "num_warnings": self.num_warnings,
            "problem_counts": dict(self.problem_counts),
            "problems": [problem_dict(problem) for problem in self.problems],
            "messages": self.messages and asdict(self.messages),
            "language": self.language,
            "token_counts": self.tokens and asdict(self.tokens),
            "longest": [{"line": line, "tokens": tokens} for tokens, line in self.longest],
            "advice": [advice.to_dict() for advice in self.advice],
        }


def problem_dict(problem: Problem) -> dict[str, Any]:
    return with_texts(
        {
            "code": problem.code,
            "severity": problem.severity,
            "line": problem.line or None,
            "path": problem.path or None,
            "message": problem.message,
            "suggestion": problem.suggestion,
        }
    )


def distribution(lengths: Lengths) -> Distribution | None:
    if not lengths.num_values:
        return None
    bins = [{"from": low, "to": high, "count": count} for low, high, count in lengths.histogram()]
    return Distribution(
        lengths.total, lengths.smallest, lengths.quantile(0.5), lengths.quantile(0.95), lengths.largest, bins
    )
