"""The worker with the real trainer and a tiny random model."""

import os
import random
import signal

import pytest

from tests.jobs.conftest import ROWS, Site
from tests.jobs.processes import children_of
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import JobStatus
from tunery.jobs import verbs
from tunery.jobs.hold import TRAINER
from tunery.store import events
from tunery.store.database import read

CHOSEN = Hyperparameters(n_epochs=10, batch_size=4)
# Enough steps that a pause and a kill always come in the middle, also on an idle machine.
LONG = Hyperparameters(n_epochs=40, batch_size=2)


def test_real_trainer_learns_and_its_job_succeeds(site: Site) -> None:
    job = site.create(hyperparameters=CHOSEN, validation_file=site.add_file(ROWS[:4]), seed=1)
    with site.worker(TRAINER):
        done = site.wait(job.id, timeout_s=90)
    assert done.status is JobStatus.SUCCEEDED, done.error
    steps = [event for event in site.events(job.id) if event.type == "metrics"]
    assert len(steps) == done.total_steps == 30
    assert steps[-1].data is not None
    assert steps[0].data is not None
    assert steps[-1].data["full_valid_loss"] < steps[0].data["train_loss"]
    assert "full validation loss=" in steps[-1].message
    with read(site.engine) as conn:
        checkpoints = events.list_checkpoints(conn, job.id).items
    assert [checkpoint.step_number for checkpoint in checkpoints] == [30, 27, 24]


def test_job_that_was_paused_and_killed_ends_with_the_loss_of_one_that_was_not(site: Site) -> None:
    whole = site.create(hyperparameters=LONG, seed=1)
    with site.worker(TRAINER):
        expected = site.wait(whole.id, timeout_s=90)
        job = site.create(hyperparameters=LONG, seed=1, training_file=whole.training_file)
        site.wait_for_step(job.id, random.randint(1, 100), timeout_s=60)
        site.verb(verbs.pause_job, job.id)
        assert site.wait(job.id, JobStatus.PAUSED).status is JobStatus.PAUSED
        assert children_of(os.getpid(), "tunery.training.child") == []
        site.verb(verbs.resume_job, job.id)
        site.wait_for_step(job.id, site.job(job.id).step + 4, timeout_s=60)
        for trainer in children_of(os.getpid(), "tunery.training.child"):
            os.kill(trainer, signal.SIGKILL)
        done = site.wait(job.id, timeout_s=90)
    assert done.status is JobStatus.SUCCEEDED
    assert any("ended unexpectedly" in message for message in site.messages(job.id))
    assert losses(site, job.id) == pytest.approx(losses(site, whole.id), abs=1e-3)
    assert done.details.metrics["train_loss"] == pytest.approx(expected.details.metrics["train_loss"], abs=1e-3)


def losses(site: Site, job_id: str) -> list[float]:
    return [event.data["train_loss"] for event in site.events(job_id) if event.type == "metrics" and event.data]


def test_job_that_is_stopped_early_keeps_its_best_checkpoint_and_pays_for_the_epochs_done(site: Site) -> None:
    contrary = [{"messages": [row["messages"][0], {"role": "assistant", "content": "zzz zzz zzz"}]} for row in ROWS[:4]]
    job = site.create(
        hyperparameters=Hyperparameters(n_epochs=30, batch_size=12, learning_rate_multiplier=3),
        validation_file=site.add_file(contrary),
        metadata={"early_stopping": "true"},
        seed=1,
    )
    with site.worker(TRAINER):
        done = site.wait(job.id, timeout_s=90)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert done.step < done.total_steps == 30
    assert (done.details.training_advice or {})["advice"] == "early_stopping"
    with read(site.engine) as conn:
        checkpoints = events.list_checkpoints(conn, job.id).items
    best = min(checkpoints, key=lambda checkpoint: checkpoint.metrics["full_valid_loss"])
    assert best.fine_tuned_model_checkpoint == done.fine_tuned_model
    assert done.trained_tokens == done.step * (done.details.num_tokens or 0)
