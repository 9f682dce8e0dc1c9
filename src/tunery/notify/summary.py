"""What a mail tells about a job that ended. Lies as JSON in the outbox, so it must not need the job again."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tunery.domain.jobs import FineTuningJob
from tunery.texts import Reference, Translator

JOB_TOPICS = "fine_tuning.job."
METRICS = ("train_loss", "train_mean_token_accuracy", "full_valid_loss", "full_valid_mean_token_accuracy")


@dataclass(frozen=True)
class Amount:
    value: float
    currency: str  # as the price table names it, such as usd

    def __str__(self) -> str:
        """With as many decimals as a small job needs to show anything."""
        decimals = 2 if self.value >= 1 or self.value == 0 else 4
        return f"{self.value:.{decimals}f} {self.currency.upper()}"


@dataclass(frozen=True)
class Problem:
    """One line of the file that must be mended."""

    line: int | None
    message: str
    suggestion: str | None = None
    texts: dict[str, Any] = field(default_factory=dict)  # what both sentences were made from


@dataclass(frozen=True)
class JobSummary:
    job_id: str
    status: str
    model: str
    method: str
    duration_s: int  # from creation to end, waiting included, pauses not
    training_file: str
    fine_tuned_model: str | None = None
    weights: str | None = None  # those that the base model stands for
    trained_tokens: int | None = None
    cost: Amount | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    error_message: str | None = None
    error_text: Reference | None = None
    error_code: str | None = None
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "JobSummary":
        return cls(
            **data
            | {
                "cost": Amount(**data["cost"]) if data.get("cost") else None,
                "problems": tuple(Problem(**problem) for problem in data.get("problems", ())),
            }
        )

    def subject(self, t: Translator) -> str:
        return t(f"mail.subject.{self.status}", job=self.job_id, model=self.fine_tuned_model)

    def error(self, t: Translator) -> str:
        return t.reword(self.error_message or "", self.error_text)

    def problem_lines(self, t: Translator) -> list[dict[str, Any]]:
        """Line, message and suggestion of each problem, worded."""
        sentences = [(problem, asdict(problem)) for problem in self.problems]
        return [
            {"line": problem.line, **{name: t.word(document, name) for name in ("message", "suggestion")}}
            for problem, document in sentences
        ]

    def metric_lines(self, t: Translator) -> list[tuple[str, str]]:
        return [(t(f"mail.metric.{key}"), f"{self.metrics[key]:.4f}") for key in METRICS if key in self.metrics]


def subject_of(topic: str, payload: dict[str, Any], t: Translator) -> str:
    """The subject of the mail with this payload in the outbox."""
    return JobSummary.from_json(payload).subject(t) if topic.startswith(JOB_TOPICS) else t.word(payload, "subject")


def summarise(
    job: FineTuningJob, *, cost: Amount | None, metrics: dict[str, float], problems: tuple[Problem, ...]
) -> JobSummary:
    """The mail's facts of a job in its final state."""
    ended = job.finished_at or job.created_at
    return JobSummary(
        job_id=job.id,
        status=job.status.value,
        model=job.model,
        method=job.method,
        duration_s=max(0, ended - job.created_at - job.paused_s),
        training_file=job.training_file,
        fine_tuned_model=job.fine_tuned_model,
        weights=job.details.weights or job.details.source,
        trained_tokens=job.trained_tokens,
        cost=cost,
        metrics=metrics,
        error_message=job.error.message if job.error else None,
        error_text=job.error.text if job.error else None,
        error_code=job.error.code if job.error else None,
        problems=problems,
    )
