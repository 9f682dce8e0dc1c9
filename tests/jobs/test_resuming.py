"""A job outlives a bad night, and what was given up goes on when it is resumed."""

import os
import random
import signal
import threading
import time
from typing import Any

import pytest

from tests.jobs.conftest import Site
from tests.jobs.processes import children_of
from tests.jobs.test_deaths import long_lease, worker_process
from tests.jobs.test_worker import SCRIPTED, script
from tests.jobs.waiting import wait_for
from tunery.domain.jobs import JobStatus
from tunery.jobs import verbs
from tunery.store import events
from tunery.store.database import read
from tunery.training.pace import Pace


def test_random_kills_of_workers_and_trainers_end_no_job(site: Site) -> None:
    settings, chance = long_lease(site), random.Random(11)
    jobs = [site.create(), site.create()]
    for _ in range(8):
        with worker_process(settings, step_s=0.1) as worker:
            wait_for(lambda: True if children_of(worker.pid) else None)
            time.sleep(chance.uniform(0.1, 1.0))
            victims = [worker.pid] if chance.random() < 0.6 else children_of(worker.pid)[:1]
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    with worker_process(settings, step_s=0.01):
        for job in jobs:
            done = site.wait(job.id)
            assert done.status is JobStatus.SUCCEEDED
            assert done.details.metrics["train_loss"] == pytest.approx(4.65)


def test_job_that_was_given_up_goes_on_when_it_is_resumed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, fault={"kind": "exit", "step": 17})
    job = site.create()
    with site.worker(SCRIPTED):
        failed = site.wait(job.id)
    assert failed.status is JobStatus.FAILED and failed.can_be_resumed
    assert failed.error is not None and "Resume the job" in failed.error.message
    assert any("resume it, and it goes on" in text for text in site.messages(job.id))
    with read(site.engine) as conn:
        assert [each.step_number for each in events.list_checkpoints(conn, job.id).items] == [10]
    script(monkeypatch)
    site.verb(verbs.resume_job, job.id)
    with site.worker(SCRIPTED):
        done = site.wait(job.id)
    assert done.status is JobStatus.SUCCEEDED
    assert (done.error, done.details.metrics["train_loss"]) == (None, pytest.approx(4.65))
    assert "Fine-tuning job continues from step 15" in site.messages(job.id)
    with read(site.engine) as conn:
        kept = events.list_checkpoints(conn, job.id).items
    assert [each.step_number for each in kept] == [30, 20, 10]
    assert kept[0].fine_tuned_model_checkpoint == done.fine_tuned_model


@pytest.mark.parametrize(
    ("verb", "status"), [(verbs.cancel_job, JobStatus.CANCELLED), (verbs.pause_job, JobStatus.PAUSED)]
)
@pytest.mark.parametrize("held_up_by", ["a step", "an upload"])
def test_cancel_and_pause_wait_for_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, verb: Any, status: JobStatus, held_up_by: str
) -> None:
    script(monkeypatch, step_s=60 if held_up_by == "a step" else 0.05, steps=300)
    monkeypatch.setattr("tunery.jobs.attempt.PAUSE_PATIENCE_S", 0.5)
    monkeypatch.setattr("tunery.jobs.attempt.PAUSE_WITHIN_S", 1.0)
    release = threading.Event()
    if held_up_by == "an upload":
        monkeypatch.setattr(type(site.blobs), "upload_dir", lambda *_: release.wait(30))
    job = site.create()
    try:
        with site.worker(SCRIPTED):
            wait_for(lambda: True if "Fine-tuning job started" in site.messages(job.id) else None)
            time.sleep(1)
            site.verb(verb, job.id)
            done = wait_for(lambda: j if (j := site.job(job.id)).status is status else None, 20)
            assert done.worker_id is None
            wait_for(lambda: True if not children_of(os.getpid(), "scripted_trainer") else None, 10)
            release.set()
    finally:
        release.set()
    assert site.job(job.id).status is status


def test_what_costs_time_is_done_at_once_and_then_for_a_fiftieth_of_it() -> None:
    now = 100.0
    pace = Pace(5, clock=lambda: now)
    assert pace.is_due()
    for cost, until in ((0.01, 5), (1.0, 50), (4.0, 200)):
        with pace.measured():
            now += cost
        now += until - 0.1
        assert not pace.is_due()
        now += 0.2
        assert pace.is_due()
