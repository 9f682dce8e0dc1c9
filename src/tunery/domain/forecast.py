"""What a month will have cost, by the days before: apart because it is arithmetic, and proven without a ledger."""

from collections.abc import Sequence

import numpy as np

from tunery.domain.intervals import RESAMPLES, Interval

NEEDED_DAYS = 7  # with fewer, a weekend not yet seen would move the whole forecast
KNOWN_DAYS = 28  # four of each weekday; what was longer ago tells little of now


def known_days(daily: Sequence[float]) -> Sequence[float]:
    """Those that count: the newest KNOWN_DAYS, from the first on which anything was spent. A server that was not there
    yet spent nothing."""
    recent = daily[-KNOWN_DAYS:]
    first = next((index for index, amount in enumerate(recent) if amount), len(recent))
    return recent[first:]


def month_end(daily: Sequence[float], spent: float, days_left: float, *, seed: int = 0) -> Interval | None:
    """The month's sum: what is spent and, for each day that is left, a day as those before. `daily`: whole days, oldest
    first, without today; `days_left`: the rest of today as a fraction. None while fewer than NEEDED_DAYS are known.

    The interval draws the known days anew and then the days to come from those (a bootstrap of the sum), so that few
    days make it wide. It knows nothing of weekdays, of growth, or of what is planned.
    """
    days = np.array(known_days(daily))
    if len(days) < NEEDED_DAYS:
        return None
    weights = np.append(np.ones(int(days_left)), days_left % 1)
    generator, count = np.random.default_rng(seed), len(days)
    seen = days[generator.integers(0, count, (RESAMPLES, count))]
    to_come = np.take_along_axis(seen, generator.integers(0, count, (RESAMPLES, len(weights))), axis=1) @ weights
    low, high = np.percentile(to_come, [2.5, 97.5])
    return Interval(spent + float(days.mean()) * days_left, spent + float(low), spent + float(high))
