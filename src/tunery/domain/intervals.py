"""A mean and how far it may be trusted: one way for parity reports and for what improves a job."""

import math
from collections.abc import Mapping

import numpy as np
from pydantic import FiniteFloat
from pydantic.dataclasses import dataclass

RESAMPLES = 4000
Z = 1.959963984540054  # 97.5 % of a normal distribution lies below


@dataclass(frozen=True)
class Interval:
    mean: FiniteFloat
    low: FiniteFloat  # 2.5 %
    high: FiniteFloat  # 97.5 %


def bootstrap_counts(counts: Mapping[float, int], *, seed: int = 0) -> Interval:
    """As `bootstrap`, of values that take few levels: how often each was seen. Drawing the counts of a resample is
    drawing its rows, at a cost that does not grow with them."""
    total = sum(counts.values())
    if not total:
        return Interval(0.0, 0.0, 0.0)
    levels, shares = np.array(list(counts)), np.array(list(counts.values())) / total
    means = np.random.default_rng(seed).multinomial(total, shares, RESAMPLES) @ levels / total
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(levels @ shares), float(low), float(high))


def share(passed: int, total: int) -> Interval:
    """Of rows that pass, by Wilson's score interval (1927): also where all of a few rows do, of which every resample is
    the same, it says how little they tell."""
    if not total:
        return Interval(0.0, 0.0, 0.0)
    mean, z2 = passed / total, Z * Z
    middle = (mean + z2 / (2 * total)) / (1 + z2 / total)
    width = Z / (1 + z2 / total) * math.sqrt(mean * (1 - mean) / total + z2 / (4 * total * total))
    return Interval(mean, max(0.0, middle - width), min(1.0, middle + width))


def bootstrap(values: np.ndarray, *, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean (Efron 1979), rows drawn with replacement. values [N]."""
    if not len(values):
        return Interval(0.0, 0.0, 0.0)
    generator, count = np.random.default_rng(seed), len(values)
    # One resample at a time: all at once take gigabytes for a hundred thousand rows.
    means = [values[generator.integers(0, count, count)].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))
