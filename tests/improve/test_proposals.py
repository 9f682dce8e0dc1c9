"""What is proposed, from figures and rows alone; the loop with a server stands in tests/e2e/test_improve.py."""

import json
from math import exp
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tunery.datasets.lines import read_lines
from tunery.domain.errors import InvalidRequest
from tunery.improve import curve, prompt, rows
from tunery.improve.asking import Likelihood, readable_rows
from tunery.improve.curve import foretell
from tunery.improve.jobs import Subject
from tunery.improve.rows import contradicting_lines, pair_score

SIZES = [42, 42, 84, 84]


def subject(lines: list[dict[str, Any]], **recipe: Any) -> Subject:
    """A job on these rows, with a validation file, of which nothing is asked."""
    job = SimpleNamespace(id="ftjob-1", training_file="file-1", validation_file="file-2", model="gpt-4o-mini")
    chosen = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.8}
    made = Subject(
        cast(Any, None),
        cast(Any, job),
        {"method": {"type": "supervised", "supervised": {"hyperparameters": chosen}}} | recipe,
    )
    content = "".join(json.dumps(row) + "\n" for row in lines).encode()
    made.__dict__["rows"] = [line for line in read_lines([content]) if line.content]
    return made


def row(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_a_line_is_foretold_as_it_is() -> None:
    losses = [2.0 * count**-0.5 for count in SIZES]
    found = foretell(SIZES, losses, 168)
    assert found.mean == pytest.approx(2.0 * 168**-0.5)
    assert found.low == pytest.approx(found.high) == pytest.approx(found.mean)


@pytest.mark.parametrize("sizes", [SIZES, [*SIZES, 168]])
def test_the_interval_holds_what_it_promises(sizes: list[int]) -> None:
    """95 of 100 jobs, however much they differ: not less, which would deceive, nor all, which would say nothing."""
    generator, inside, times = np.random.default_rng(5), 0, 4000
    for _ in range(times):
        noise = generator.normal(0, generator.choice([0.02, 0.1, 0.4]), len(sizes) + 1)
        losses = [
            exp(1 - 0.6 * np.log2(count) + off) for count, off in zip([*sizes, 2 * sizes[-1]], noise, strict=True)
        ]
        found = foretell(sizes, losses[:-1], 2 * sizes[-1])
        inside += found.low <= losses[-1] <= found.high
    assert 0.94 <= inside / times <= 0.96


def test_parts_are_of_different_rows_and_lie_within_each_other() -> None:
    parts = {part.name: set(part.rows or ()) for part in curve.plan(subject([row(str(n), "a") for n in range(83)]))}
    assert {name: len(rows) for name, rows in parts.items()} == {
        "quarter 1": 20,
        "quarter 2": 20,
        "half 1": 41,
        "half 2": 41,
    }
    assert parts["quarter 1"] < parts["half 1"] and parts["quarter 2"] < parts["half 2"]
    assert not parts["half 1"] & parts["half 2"]
    with pytest.raises(InvalidRequest, match="40 rows"):
        curve.plan(subject([row(str(n), "a") for n in range(39)]))


def test_rows_that_contradict_each_other_are_named() -> None:
    long = "My lamp arrived with a broken switch and the box was open already, what now"
    found = contradicting_lines(
        subject(
            [
                row(long, "damage"),
                row(long + "?", "refund"),  # nearly the same
                row("Hi", "praise"),
                row("Hi", "sales"),  # the very same, and too short to be looked through for likeness
                row("Hi there", "praise"),
                row(long + "!", "damage"),
            ]
        )
    )
    assert {line: found.get(line) for line in (1, 2, 3, 4, 5)} == {1: 2, 2: 1, 3: 4, 4: 3, 5: None}
    assert found[6] == 2


def test_labels_are_asked_three_times() -> None:
    """By the halves' models, by those of an epoch before, and as vectors; other answers once."""
    of_labels = subject([row(f"Ticket {n}", "ab"[n % 2]) for n in range(40)])
    others = [
        subject([row(f"Ticket {n}", f"Answer {n}") for n in range(40)]),
        subject([row(f"Ticket {n}", "the same") for n in range(40)]),
    ]
    for each in (of_labels, *others):
        each.__dict__["estimate"] = {"trained_tokens": 400, "num_examples": 40}
    assert [rows.num_tokens(each) for each in (of_labels, *others)] == [1200, 400, 400]


def test_a_pair_counts_by_which_answer_is_likelier() -> None:
    sure, torn, wrong = (pair_score(Likelihood(-2.0, 4), Likelihood(worse, 9)) for worse in (-20.0, -2.0, 6.0))
    assert sure > torn > wrong
    assert exp(torn) == pytest.approx(0.5) and exp(sure) <= 1


def test_prompts_are_made_of_the_file() -> None:
    given = readable_rows(subject([row(f"Ticket {n}", "ab"[n % 2]) for n in range(8)]).rows)
    assert sorted(prompt.labels_of(given)) == ["a", "b"]
    made = prompt.prompts(given, given[:1])
    assert len(made) == 6
    spelt = made["base, an example of each label, labels spelt out"][0]
    assert spelt[0]["role"] == "system" and "a, b" in spelt[0]["content"]
    asked = [message["content"] for message in spelt if message["role"] == "user"]
    assert asked == ["Ticket 1", "Ticket 0"]  # of its own label no example: it is the question itself
    assert not prompt.labels_of(given[:4]) and not prompt.labels_of(
        readable_rows(subject([row(str(n), str(n)) for n in range(90)]).rows)
    )
    with pytest.raises(InvalidRequest, match="no labels"):
        prompt.plan(subject([row(str(n), str(n)) for n in range(90)]))
