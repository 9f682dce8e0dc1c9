"""Parity reports as the report code makes them, of answers to a labelling task."""

import random
from dataclasses import replace

from tunery.domain.usage import Price
from tunery.migrate.capture import ModelAnswer
from tunery.migrate.report import Report, make_report
from tunery.migrate.report_cost import Tariff, Tariffs

LABELS = ["billing", "login", "refund", "shipping"]
OLD, NEW = "ft:gpt-4o-mini-2024-07-18:acme:support:AbC12345", "ft:gpt-4o-mini-2024-07-18:personal:support:XyZ98765"
BASE = "gpt-4o-mini-2024-07-18"
TARIFFS = Tariffs(
    old=Tariff("usd", Price(input=300_000, output=1_200_000)),
    new=Tariff("usd", Price(input=150_000, output=600_000)),
    base=Tariff("usd", Price(input=150_000, output=600_000)),
)


def answers(count: int, right: float, *, model: str = "m", seed: int = 0) -> list[ModelAnswer]:
    """`count` rows, the given share of them right."""
    draw = random.Random(seed)
    made = []
    for row in range(count):
        label = LABELS[row % 4]
        answer = label if draw.random() < right else LABELS[(row + 1) % 4]
        messages = [{"role": "user", "content": f"Ticket {row} <b>"}]
        usage = {"prompt_tokens": 20, "completion_tokens": 2}
        made.append(ModelAnswer(row, messages, model, label, answer, latency_ms=10.0, usage=usage))
    return made


def report(*, rows: int = 60, old: float = 1.0, new: float = 1.0, base: float = 0.25, model: str = NEW) -> Report:
    """Of models that are right in these shares of the rows."""
    return make_report(
        old=answers(rows, old, model=OLD),
        new=answers(rows, new, model=model, seed=1),
        base=answers(rows, base, model=BASE, seed=2),
        now=1_795_564_800,
        tariffs=TARIFFS,
    )


def without_expected(made: list[ModelAnswer]) -> list[ModelAnswer]:
    return [replace(answer, expected=None) for answer in made]
