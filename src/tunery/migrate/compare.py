"""Scores answers row by row, and says with what certainty one model is as good as another. No I/O."""

import re
from collections.abc import Sequence

import numpy as np
from rapidfuzz.fuzz import ratio

from tunery.domain.answers import is_exact, normalise
from tunery.domain.intervals import bootstrap
from tunery.domain.parity import Decision, Measure, ModelSummary
from tunery.migrate.capture import ModelAnswer

MIN_ROWS = 30  # below this a 95 % interval of a hit rate is wider than ±15 points: nothing can be said
MARGIN = 0.05  # how much worse, in points of the score, still counts as "as good"
AGREEMENT_MARGIN = 0.2  # without expected answers: wordings of one answer are seldom more than 80 % alike
MAX_COMPARED = 20_000  # characters of an answer, some 4,000 words: a pair takes milliseconds
SHORT_ANSWER_WORDS = 6  # labels, numbers, names: only an exact answer is right

REFUSAL = re.compile(
    r"\b(i'?m sorry|i can(?:no|')t (?:help|assist|provide|do)|as an ai|i am unable|i'm unable)\b", re.I
)


def similarity(one: str | None, other: str | None) -> float:
    """0 to 1: share of characters in common order (normalised indel similarity), after normalising space and case.

    Of answers longer than MAX_COMPARED their beginnings stand for them: the time grows with the product of the lengths.
    """
    return ratio(normalise(one)[:MAX_COMPARED], normalise(other)[:MAX_COMPARED]) / 100


def is_exact_task(answers: Sequence[ModelAnswer]) -> bool:
    lengths = [len(answer.expected.split()) for answer in answers if answer.expected is not None]
    return bool(lengths) and float(np.median(lengths)) <= SHORT_ANSWER_WORDS


def measure_of(reference: Sequence[ModelAnswer]) -> Measure:
    if is_exact_task(reference):
        return "exact"
    return "similarity" if _has_expected(reference) else "agreement"


def margin_of(reference: Sequence[ModelAnswer]) -> float:
    """How much worse than the old model still counts as good as it, in points of the score (0..1)."""
    return MARGIN if _has_expected(reference) else AGREEMENT_MARGIN


def _has_expected(answers: Sequence[ModelAnswer]) -> bool:
    return any(answer.expected is not None for answer in answers)


def score_rows(answers: Sequence[ModelAnswer], reference: Sequence[ModelAnswer]) -> np.ndarray:
    """[rows] in 0..1. Exact match for short expected answers, similarity for long ones.

    Without expected answers the old model's own are the measure. A row that failed scores 0.
    """
    exact = is_exact_task(reference)
    scores = []
    for answer, old in zip(answers, reference, strict=True):
        wanted = old.text if answer.expected is None else answer.expected
        if answer.error is not None:
            scores.append(0.0)
        elif exact:
            scores.append(float(is_exact(answer.text, wanted)))
        else:
            scores.append(similarity(answer.text, wanted))
    return np.array(scores)


def summarise(answers: Sequence[ModelAnswer], old: Sequence[ModelAnswer]) -> ModelSummary:
    good = [answer for answer in answers if answer.error is None]
    labelled = [answer for answer in good if answer.expected is not None]
    logprobs = [value for answer in good for value in answer.logprobs]
    return ModelSummary(
        model=answers[0].model if answers else "",
        num_rows=len(answers),
        num_errors=len(answers) - len(good),
        score=bootstrap(score_rows(answers, old)),
        exact_match=_mean([is_exact(a.text, a.expected) for a in labelled]),
        similarity=_mean([similarity(a.text, a.expected) for a in labelled]),
        agreement=_mean([similarity(a.text, b.text) for a, b in zip(answers, old, strict=True)]) or 0.0,
        refusals=_mean([bool(REFUSAL.search(a.answer or "")) for a in good]) or 0.0,
        mean_words=_mean([len((a.answer or "").split()) for a in good]) or 0.0,
        mean_logprob=_mean(logprobs),
        latency_p50_ms=float(np.median([a.latency_ms for a in good])) if good else 0.0,
        prompt_tokens=sum(a.usage.get("prompt_tokens", 0) for a in good),
        completion_tokens=sum(a.usage.get("completion_tokens", 0) for a in good),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def decide(
    new: Sequence[ModelAnswer], old: Sequence[ModelAnswer], base: Sequence[ModelAnswer] | None = None
) -> Decision:
    """Whether the new model may take the old one's place: a non-inferiority test with margin MARGIN.

    `yes` when even the low end of the interval is within the margin, `no` when even the high end is not.
    """
    new_scores, old_scores = score_rows(new, old), score_rows(old, old)
    margin = margin_of(old)
    difference = bootstrap(new_scores - old_scores)
    points = f"{100 * difference.mean:+.1f} points ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    if len(new) < MIN_ROWS:
        need = MIN_ROWS - len(new)
        return Decision(
            "not enough data",
            f"{len(new)} rows can't show a difference of {100 * margin:.0f} points; add at least {need} more.",
            difference,
        )
    if difference.low >= -margin:
        return Decision(
            "yes", f"The new model scores {points} against the old one: as good within the margin.", difference
        )
    if difference.high < -margin:
        reason = f"The new model scores {points} against the old one: worse."
        if base is not None and new_scores.mean() <= score_rows(base, old).mean():
            reason += " It is no better than the untrained base, so the training itself went wrong: look at its data."
        return Decision("no", reason, difference)
    return Decision(
        "not enough data",
        f"The new model scores {points} against the old one: the interval crosses the margin of "
        f"{100 * margin:.0f} points. More held-out rows would narrow it.",
        difference,
    )
