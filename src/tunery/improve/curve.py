"""More of this data? A learning curve: the job on quarters and halves of its rows, and what twice the rows would bring.

Within what is measured a loss falls by about the same share with each doubling (a power law), so its logarithm lies on
a line over the doublings. The line comes with the prediction interval of ordinary least squares: two jobs of each size,
on different rows, tell how far one job is off it by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, log2, sqrt

import numpy as np

from tunery.domain.errors import InvalidRequest
from tunery.domain.intervals import Interval
from tunery.improve.jobs import (
    MIN_ROWS,
    WHOLE,
    Part,
    Subject,
    ended,
    files_of,
    halves,
    make,
    make_whole,
    points_of,
    rows_of,
)
from tunery.texts import say

# 97.5 % of Student's distribution lie below, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447}


@dataclass(frozen=True)
class Measured:
    part: str
    job_id: str
    num_rows: int
    loss: float  # on the rows that were held back, at the end
    accuracy: float  # of their tokens


@dataclass(frozen=True)
class LearningCurve:
    parts: list[Measured]  # the smallest first, the whole last
    expected: Interval  # loss of the whole, by the parts alone
    doubled: Interval  # loss with twice the rows, by all
    gain: Interval  # share of the loss that twice the rows take away

    @property
    def measured(self) -> Measured:
        return self.parts[-1]

    @property
    def holds(self) -> bool:
        """Whether the parts foretold the whole. Where they did not, do not believe what is said of twice the rows."""
        return self.expected.low <= self.measured.loss <= self.expected.high

    def at(self, num_rows: int) -> Interval:
        """The loss with so many rows, by all parts."""
        return _foretold(self.parts, num_rows)


def plan(subject: Subject) -> list[Part]:
    """Two quarters and two halves, the quarters within the halves; and the whole, where it is not measured yet. Raises
    InvalidRequest where a quarter is too small for a job."""
    count = subject.num_trained
    if count < 4 * MIN_ROWS:
        raise InvalidRequest(say("improve.too_few_for_curve", least=4 * MIN_ROWS, count=count))
    both = halves(count)
    parts = [Part(say("improve.quarter", n=n), half[: count // 4]) for n, half in enumerate(both, 1)]
    parts += [Part(say("improve.half", n=n), half) for n, half in enumerate(both, 1)]
    return parts if subject.job.validation_file else [Part(WHOLE), *parts]


def num_tokens(_: Subject) -> int:
    """Nothing is asked: each job measures itself."""
    return 0


def start(subject: Subject) -> list[str]:
    """Makes what is not there yet. The ids of all jobs, in the order of `plan`, the whole last."""
    whole = make_whole(subject)
    files, rows = files_of(whole), rows_of(subject.server, whole.training_file)
    made = [make(subject, part, files, rows) for part in plan(subject) if part.name != WHOLE]
    return [job.id for job in (*made, whole)]


def read(subject: Subject, job_ids: Sequence[str]) -> LearningCurve:
    """Of the jobs that `start` named, which have ended. Raises InvalidRequest where one did not succeed."""
    jobs = ended(subject.server, job_ids)
    cuts = [part for part in plan(subject) if part.rows is not None]
    names, sizes = [part.name for part in cuts], [len(part.rows or ()) for part in cuts]
    parts = [
        Measured(name, job.id, size, last.loss, last.accuracy)
        for name, job, size in zip([*names, WHOLE], jobs, [*sizes, subject.num_trained], strict=True)
        for last in points_of(subject.server, job)[-1:]
    ]
    whole = parts[-1]
    doubled = _foretold(parts, 2 * whole.num_rows)
    shares = (1 - loss / whole.loss for loss in (doubled.mean, doubled.high, doubled.low))
    return LearningCurve(parts, _foretold(parts[:-1], whole.num_rows), doubled, Interval(*shares))


def _foretold(parts: Sequence[Measured], at: int) -> Interval:
    return foretell([part.num_rows for part in parts], [part.loss for part in parts], at)


def foretell(num_rows: Sequence[int], losses: Sequence[float], at: int) -> Interval:
    """The loss of one more job on `at` rows, and the interval in which 95 of 100 would lie if the line holds."""
    x, y = np.array([log2(count) for count in num_rows]), np.array([log(max(loss, 1e-9)) for loss in losses])
    centre, spread = x.mean(), ((x - x.mean()) ** 2).sum()
    slope = ((x - centre) * y).sum() / spread
    left = y - y.mean() - slope * (x - centre)
    freedom = len(x) - 2
    variance = (left**2).sum() / freedom * (1 + 1 / len(x) + (log2(at) - centre) ** 2 / spread)
    middle, off = y.mean() + slope * (log2(at) - centre), STUDENT[min(freedom, max(STUDENT))] * sqrt(variance)
    return Interval(exp(middle), exp(middle - off), exp(middle + off))
