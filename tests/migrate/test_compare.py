"""The verdict on a successor: a non-inferiority test that must be right for good, broken and thin evidence."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.migrate.reports import TARIFFS, answers, report, without_expected
from tunery.domain.intervals import bootstrap
from tunery.migrate.capture import ModelAnswer
from tunery.migrate.compare import MAX_COMPARED, decide, is_exact_task, similarity, summarise
from tunery.migrate.report import make_report, to_html


@pytest.mark.parametrize(
    ("rows", "old", "new", "verdict"),
    [
        (60, 1.0, 1.0, "yes"),
        (200, 0.9, 0.97, "yes"),
        (60, 1.0, 0.25, "no"),
        (10, 1.0, 1.0, "not enough data"),
        (40, 0.9, 0.8, "not enough data"),
    ],
)
def test_the_verdict_follows_the_evidence(rows: int, old: float, new: float, verdict: str) -> None:
    decision = decide(answers(rows, new, seed=1), answers(rows, old))
    assert decision.safe_to_switch == verdict, decision.reason


def test_a_broken_training_is_told_from_a_weak_one() -> None:
    decision = decide(answers(60, 0.2, seed=1), answers(60, 1.0), answers(60, 0.5, seed=2))
    assert "no better than the untrained base" in decision.reason


def test_without_expected_answers_the_old_ones_are_the_measure() -> None:
    old = without_expected(answers(60, 1.0))
    assert decide(old, old).safe_to_switch == "yes"
    strangers = [replace(answer, answer="something else entirely") for answer in old]
    assert decide(strangers, old).safe_to_switch == "no"


def test_a_failed_answer_counts_as_wrong() -> None:
    old = answers(60, 1.0)
    failed = [replace(answer, answer=None, error="503") for answer in old]
    assert summarise(failed, old).score.mean == 0
    assert decide(failed, old).safe_to_switch == "no"


def test_the_bootstrap_covers_the_true_mean_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    intervals = [bootstrap((draw.random(80) < 0.7).astype(float), seed=n) for n in range(200)]
    covered = sum(interval.low <= 0.7 <= interval.high for interval in intervals)
    assert 180 <= covered <= 200  # 95 % of 200, four standard deviations either side


def test_long_answers_are_scored_by_likeness() -> None:
    long = [ModelAnswer(1, [], "m", "a sentence of quite a few words that nobody repeats exactly")]
    assert not is_exact_task(long)
    assert is_exact_task(answers(3, 1.0))


def test_likeness_ignores_case_space_and_the_final_stop() -> None:
    assert similarity(" Billing. ", "billing") == 1.0


def test_the_html_report_escapes_what_models_and_users_wrote() -> None:
    old, new = answers(60, 1.0), answers(60, 0.1, model="<script>alert(1)</script>", seed=3)
    page = to_html(make_report(old=old, new=new, base=None, now=1_795_564_800))
    assert "<script>" not in page
    assert "Ticket" in page and "&lt;b&gt;" in page
    assert "Safe to switch: no" in page


def test_only_rows_that_all_models_answered_are_compared() -> None:
    made = make_report(old=answers(60, 1.0), new=answers(40, 1.0), base=None, now=1)
    assert made.old.num_rows == 40


def test_the_report_names_its_measure_and_margin() -> None:
    labelled = make_report(old=answers(40, 1.0), new=answers(40, 1.0), base=None, now=1)
    assert (labelled.measure, labelled.margin) == ("exact", 0.05)
    bare = without_expected(answers(40, 1.0))
    alike = make_report(old=bare, new=bare, base=None, now=1)
    assert (alike.measure, alike.margin) == ("agreement", 0.2)


def test_every_row_is_in_the_report_the_least_alike_first() -> None:
    made = report(rows=60, new=0.7)
    assert sorted(row.row for row in made.rows) == list(range(60))
    likeness = [row.similarity for row in made.rows]
    assert likeness == sorted(likeness) and likeness[0] < 1 == likeness[-1]
    wrong = made.rows[0]
    assert (wrong.old.score, wrong.new.score, wrong.old.text) == (1.0, 0.0, wrong.expected)


def test_costs_are_those_of_a_thousand_requests_and_unknown_without_a_price() -> None:
    made = report()
    assert made.costs.old is not None and made.costs.new is not None
    # 20 tokens at $0.30 and 2 at $1.20 for a million, a thousand times
    assert made.costs.old.amount == pytest.approx((20 * 0.30 + 2 * 1.20) / 1e6 * 1000)
    assert made.costs.new.amount == pytest.approx(made.costs.old.amount / 2)
    bare = make_report(old=answers(40, 1.0), new=answers(40, 1.0), base=None, now=1)
    assert (bare.costs.old, bare.costs.new, bare.costs.base) == (None, None, None)


def test_failed_answers_cost_nothing_and_do_not_make_the_others_cheaper() -> None:
    old = answers(60, 1.0)
    half = [replace(a, answer=None, error="503", usage={}) if a.row % 2 else a for a in old]
    made = make_report(old=old, new=half, base=None, now=1, tariffs=TARIFFS)
    assert made.costs.old is not None and made.costs.new is not None
    assert made.costs.new.amount == pytest.approx(made.costs.old.amount / 2)  # the new price is half the old one
    failed = make_report(old=old, new=[replace(a, error="503") for a in half], base=None, now=1, tariffs=TARIFFS)
    assert failed.costs.new is None


def test_as_lines_the_report_is_its_json_with_the_rows_after_it() -> None:
    made = report(rows=30)
    head, *rows = [json.loads(line) for line in made.as_json_lines()]
    assert {**head, "rows": rows} == json.loads(json.dumps(made.as_json()))
    assert head["object"] == "tunery.parity_report" and len(rows) == 30


def test_of_long_answers_the_beginnings_are_compared() -> None:
    """The time grows with the product of the lengths: a million characters each would take a minute a row."""
    assert similarity("a" * MAX_COMPARED + "b" * 1_000_000, "a" * MAX_COMPARED + "c" * 1_000_000) == 1.0
    assert similarity("x" + "a" * 1_000_000, "y" + "b" * 1_000_000) == 0.0
