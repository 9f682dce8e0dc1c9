"""The verdict on a successor: a non-inferiority test that must be right for good, broken and thin evidence."""

import random
from dataclasses import replace

import numpy as np
import pytest

from tunery.migrate.capture import Golden
from tunery.migrate.compare import bootstrap, decide, is_exact_task, similarity, summarise, token_overlap
from tunery.migrate.report import make_report, to_html

LABELS = ["billing", "login", "refund", "shipping"]


def answers(count: int, right: float, *, model: str = "m", seed: int = 0) -> list[Golden]:
    """`count` rows of a labelling task, the given share of them right."""
    draw = random.Random(seed)
    made = []
    for row in range(count):
        label = LABELS[row % 4]
        answer = label if draw.random() < right else LABELS[(row + 1) % 4]
        messages = [{"role": "user", "content": f"Ticket {row} <b>"}]
        made.append(Golden(row, messages, model, label, answer, latency_ms=10.0))
    return made


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
    old = [replace(answer, expected=None) for answer in answers(60, 1.0)]
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
    long = [Golden(1, [], "m", "a sentence of quite a few words that nobody repeats exactly")]
    assert not is_exact_task(long)
    assert is_exact_task(answers(3, 1.0))


def test_likeness_ignores_case_space_and_the_final_stop() -> None:
    assert similarity(" Billing. ", "billing") == 1.0
    assert token_overlap("the red car", "a red car") == pytest.approx(2 / 3)
    assert token_overlap("", "x") == 0.0


def test_the_html_report_escapes_what_models_and_users_wrote() -> None:
    old, new = answers(60, 1.0), answers(60, 0.1, model="<script>alert(1)</script>", seed=3)
    page = to_html(make_report(old=old, new=new, base=None, now=1_795_564_800))
    assert "<script>" not in page
    assert "Ticket" in page and "&lt;b&gt;" in page
    assert "Safe to switch: no" in page


def test_only_rows_that_all_models_answered_are_compared() -> None:
    report = make_report(old=answers(60, 1.0), new=answers(40, 1.0), base=None, now=1)
    assert report.old.num_rows == 40
