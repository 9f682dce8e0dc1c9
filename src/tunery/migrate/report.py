"""The parity report: old, base and new model on the same held-out rows, as data, as JSON and as one HTML file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from tunery.domain.errors import InvalidRequest
from tunery.migrate.capture import Golden
from tunery.migrate.compare import Decision, ModelSummary, decide, most_different, similarity, summarise


@dataclass(frozen=True)
class Difference:
    row: int
    question: str
    expected: str | None
    old: str
    new: str
    similarity: float


@dataclass(frozen=True)
class Report:
    created_at: int
    decision: Decision
    old: ModelSummary
    new: ModelSummary
    base: ModelSummary | None
    differences: list[Difference]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def make_report(*, old: Sequence[Golden], new: Sequence[Golden], base: Sequence[Golden] | None, now: int) -> Report:
    """Compares the rows that every model was asked. Raises InvalidRequest when there is no such row."""
    rows = {answer.row for answer in old} & {answer.row for answer in new}
    if base is not None:
        rows &= {answer.row for answer in base}
    if not rows:
        raise InvalidRequest("The answers have no row in common: capture all models on the same file.")
    old, new = _only(old, rows), _only(new, rows)
    base = None if base is None else _only(base, rows)
    return Report(
        created_at=now,
        decision=decide(new, old, base),
        old=summarise(old, old),
        new=summarise(new, old),
        base=None if base is None else summarise(base, old),
        differences=[_difference(*pair) for pair in most_different(new, old)],
    )


def _only(answers: Sequence[Golden], rows: set[int]) -> list[Golden]:
    return sorted((answer for answer in answers if answer.row in rows), key=lambda answer: answer.row)


def _difference(old: Golden, new: Golden) -> Difference:
    return Difference(
        row=old.row,
        question=str(old.messages[-1].get("content") or ""),
        expected=old.expected,
        old=old.error or old.answer or "",
        new=new.error or new.answer or "",
        similarity=similarity(old.answer, new.answer),
    )


def to_html(report: Report) -> str:
    """One file with no outside reference: it may be mailed or kept for years."""
    environment = Environment(loader=PackageLoader("tunery.migrate", "."), autoescape=select_autoescape(["jinja"]))
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f} %"
    made = datetime.fromtimestamp(report.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    models = [("old", report.old), ("base", report.base), ("new", report.new)]
    shown = [(role, summary) for role, summary in models if summary is not None]
    return environment.get_template("report.html.jinja").render(report=report, models=shown, made=made)
