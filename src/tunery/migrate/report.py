"""The parity report: old, base and new model on the same held-out rows, as data, as JSON and as one HTML file."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, select_autoescape
from pydantic.dataclasses import dataclass

from tunery.chat.messages import text_of
from tunery.domain.errors import InvalidRequest
from tunery.domain.parity import Parity, ParityRow, RowAnswer
from tunery.migrate.capture import ModelAnswer
from tunery.migrate.compare import (
    MIN_ROWS,
    decide,
    margin_of,
    measure_of,
    score_rows,
    similarity,
    summarise,
)
from tunery.migrate.report_cost import UNKNOWN, Tariffs, costs_of

ROWS_IN_HTML = 20


@dataclass(frozen=True)
class Report(Parity):
    rows: list[ParityRow]  # all, the least alike first

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def as_json_lines(self) -> Iterator[bytes]:
        """First everything but the rows, then a line a row: a reader needs no more of it than it shows."""
        rows = (head := self.as_json()).pop("rows")
        for item in (head, *rows):
            yield orjson.dumps(item) + b"\n"


def make_report(
    *,
    old: Sequence[ModelAnswer],
    new: Sequence[ModelAnswer],
    base: Sequence[ModelAnswer] | None,
    now: int,
    tariffs: Tariffs = UNKNOWN,
) -> Report:
    """Compares the rows that every model was asked. Raises InvalidRequest when there is no such row."""
    rows = {answer.row for answer in old} & {answer.row for answer in new}
    if base is not None:
        rows &= {answer.row for answer in base}
    if not rows:
        raise InvalidRequest("The answers have no row in common: capture all models on the same file.")
    old, new = _only(old, rows), _only(new, rows)
    base = None if base is None else _only(base, rows)
    summaries = summarise(old, old), summarise(new, old), None if base is None else summarise(base, old)
    return Report(
        object="tunery.parity_report",
        created_at=now,
        decision=decide(new, old, base),
        measure=measure_of(old),
        margin=margin_of(old),
        min_rows=MIN_ROWS,
        old=summaries[0],
        new=summaries[1],
        base=summaries[2],
        costs=costs_of(*summaries, tariffs),
        rows=_rows(old, new),
    )


def _only(answers: Sequence[ModelAnswer], rows: set[int]) -> list[ModelAnswer]:
    return sorted((answer for answer in answers if answer.row in rows), key=lambda answer: answer.row)


def _rows(old: Sequence[ModelAnswer], new: Sequence[ModelAnswer]) -> list[ParityRow]:
    pairs = zip(old, new, score_rows(old, old), score_rows(new, old), strict=True)
    rows = [
        ParityRow(
            row=before.row,
            messages=before.messages,
            expected=before.expected,
            old=_answer(before, float(old_score)),
            new=_answer(after, float(new_score)),
            similarity=similarity(before.text, after.text),
        )
        for before, after, old_score, new_score in pairs
    ]
    return sorted(rows, key=lambda row: (row.similarity, row.row))


def _answer(answer: ModelAnswer, score: float) -> RowAnswer:
    return RowAnswer(answer.error or answer.text, answer.error is not None, score)


def to_html(report: Report) -> str:
    """One file with no outside reference: it may be mailed or kept for years."""
    environment = Environment(loader=PackageLoader("tunery.migrate", "."), autoescape=select_autoescape(["jinja"]))
    environment.filters["question"] = lambda row: text_of(row.messages[-1]) if row.messages else ""
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f} %"
    made = datetime.fromtimestamp(report.created_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    template = environment.get_template("report.html.jinja")
    return template.render(report=report, rows=report.rows[:ROWS_IN_HTML], models=report.models, made=made)
