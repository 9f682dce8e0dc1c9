"""Which hyperparameters? The job with half and twice its learning rate, and each for up to twice its epochs.

The epochs need no jobs of their own: every job measures the rows that were held back at each epoch's end and stops when
their loss has turned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tunery.domain.intervals import Interval, bootstrap
from tunery.improve.asking import Row, in_parallel, likelihood, readable_rows
from tunery.improve.jobs import WHOLE, Part, Point, Subject, ended, files_of, make, make_whole, points_of, rows_of
from tunery.jobs.requests import MAX_EPOCHS
from tunery.texts import say

FACTORS = (0.5, 1.0, 2.0)  # of the job's learning rate
MORE_EPOCHS = 2  # times the job's


@dataclass(frozen=True)
class Tried:
    job_id: str
    learning_rate_multiplier: float
    n_epochs: int  # at most, and as the learning rate was planned for
    steps_an_epoch: int
    best: Point

    @property
    def best_epoch(self) -> int:
        return self.best.step // self.steps_an_epoch


@dataclass(frozen=True)
class Sweep:
    as_it_was: Point
    tried: list[Tried]  # the best first
    difference: Interval  # of the log-likelihood of a held-back answer: best of `tried` minus as it was, paired by row

    @property
    def is_better(self) -> bool:
        return self.difference.low > 0


def plan(subject: Subject) -> list[Part]:
    multiplier, epochs = float(subject.chosen["learning_rate_multiplier"]), int(subject.chosen["n_epochs"])
    most = min(MAX_EPOCHS, MORE_EPOCHS * epochs)
    parts = [
        Part(
            say("improve.learning_rate", factor=f"{factor:g}"),
            changes={"learning_rate_multiplier": factor * multiplier, "n_epochs": most},
            stops_early=True,
        )
        for factor in FACTORS
    ]
    return parts if subject.job.validation_file else [Part(WHOLE), *parts]


def num_tokens(subject: Subject) -> int:
    """Of the questions that `read` asks."""
    return round(2 * subject.num_held_back * subject.tokens_a_row)


def start(subject: Subject) -> list[str]:
    """Makes what is not there yet. The ids of all jobs, the whole last."""
    whole = make_whole(subject)
    made = [make(subject, part, files_of(whole), ()) for part in plan(subject) if part.name != WHOLE]
    return [job.id for job in (*made, whole)]


def read(subject: Subject, job_ids: Sequence[str]) -> Sweep:
    """Of the jobs that `start` named, which have ended. Raises InvalidRequest where one did not succeed."""
    *jobs, whole = ended(subject.server, job_ids)
    tried = []
    for part, job in zip((part for part in plan(subject) if part.name != WHOLE), jobs, strict=True):
        points = points_of(subject.server, job)
        best = min(points, key=lambda point: point.loss)
        steps = -(-subject.num_trained // int(subject.chosen["batch_size"]))
        tried.append(Tried(job.id, part.changes["learning_rate_multiplier"], part.changes["n_epochs"], steps, best))
    tried.sort(key=lambda each: each.best.loss)
    as_it_was = points_of(subject.server, whole)[-1]
    rows = readable_rows(rows_of(subject.server, whole.validation_file or ""))
    before, after = (_likelihoods(subject, point.model, rows) for point in (as_it_was, tried[0].best))
    return Sweep(as_it_was, tried, bootstrap(after - before))


def _likelihoods(subject: Subject, model: str, rows: list[Row]) -> np.ndarray:
    """Of the answers, a token. [rows]"""
    return np.array([one.mean for one in in_parallel(partial(likelihood, subject.server, model), rows)])
