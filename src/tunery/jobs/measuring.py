"""Remembers how long jobs took on this machine, so that estimates of coming jobs rest on more than a guess."""

import logging
from dataclasses import asdict
from typing import Any

from tunery.datasets.estimate import billable_tokens
from tunery.datasets.report import Report
from tunery.datasets.speed import PastJob, record
from tunery.datasets.work import EpochCounts, training_flop
from tunery.domain.jobs import FineTuningJob
from tunery.jobs.resources import Resources
from tunery.jobs.workspace import Prepared
from tunery.models.config import read_sizes
from tunery.models.sources import cache as sources

log = logging.getLogger(__name__)


def counts_of(training: Report) -> dict[str, Any] | None:
    return asdict(EpochCounts.of(training.tokens, training.num_examples)) if training.tokens else None


def remember(
    job: FineTuningJob,
    prepared: Prepared,
    resources: Resources,
    *,
    trained_tokens: int,
    training_s: float,
    total_s: float,
) -> None:
    """After a job that ran all its steps in one go; others tell nothing. A failure to write costs only precision."""
    known, chosen = job.details.epoch_counts, prepared.hyperparameters
    model_dir = sources.cached(prepared.source, resources.settings.models_dir)
    if known is None or model_dir is None or prepared.step:
        return
    counts = EpochCounts(**known)
    if trained_tokens != billable_tokens(counts.num_tokens, chosen.n_epochs):  # it was stopped early
        return
    flop = training_flop(counts, chosen, method=job.method, sizes=read_sizes(model_dir))
    try:
        past = PastJob(flop, training_s=training_s, overhead_s=max(0.0, total_s - training_s))
        record(resources.settings.home, prepared.source, job.method, past)
    except OSError:
        log.warning("the speed of %s could not be remembered", job.id, exc_info=True)
