"""Processes that die where it hurts: the job ends as if nothing had happened, and soon."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.jobs.conftest import Site
from tests.jobs.processes import children_of, is_alive
from tests.jobs.waiting import wait_for
from tunery.domain.jobs import JobStatus
from tunery.jobs import verbs
from tunery.settings import Settings

HERE = Path(__file__).parent


@contextmanager
def worker_process(settings: Settings, **script: object) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, **settings.as_environment(), "SCRIPT": json.dumps(script)}
    log = (settings.home / "worker.log").open("ab")
    process = subprocess.Popen([sys.executable, str(HERE / "worker_process.py")], env=environment, stderr=log)
    log.close()
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def long_lease(site: Site) -> Settings:
    """Under this lease a job comes back in time only if the worker's death is noticed."""
    return site.settings.model_copy(update={"lease_s": 600.0})


def test_worker_killed_at_random_points_costs_no_step_and_no_waiting_for_the_lease(site: Site) -> None:
    settings, chance = long_lease(site), random.Random(7)
    job = site.create()
    kills = 0
    while not site.job(job.id).is_terminal:
        with worker_process(settings, step_s=0.1) as process:
            before = site.job(job.id).step
            wait_for(lambda: j if (j := site.job(job.id)).step > before or j.is_terminal else None)  # noqa: B023
            if site.job(job.id).is_terminal or kills == 3:
                break
            time.sleep(chance.uniform(0, 0.8))
            process.send_signal(signal.SIGKILL)
            kills += 1
    with worker_process(settings, step_s=0.01):
        done = site.wait(job.id)
    assert kills >= 2
    assert done.status is JobStatus.SUCCEEDED
    assert done.details.metrics["train_loss"] == pytest.approx(4.65)
    steps = [event.data["step"] for event in site.events(job.id) if event.type == "metrics" and event.data]
    assert steps == list(range(1, 31))


def test_trainer_ends_with_its_worker(site: Site) -> None:
    job = site.create()
    with worker_process(site.settings, step_s=0.2) as process:
        site.wait_for_step(job.id, 2)
        trainer = _child_of(process.pid)
        process.kill()
        wait_for(lambda: True if not is_alive(trainer) else None, 5)


def test_frozen_workers_job_goes_to_another_after_its_lease_and_comes_to_no_harm(site: Site) -> None:
    job = site.create()
    with worker_process(site.settings, step_s=0.1) as frozen:
        site.wait_for_step(job.id, 6)
        trainer = _child_of(frozen.pid)
        frozen.send_signal(signal.SIGSTOP)
        os.kill(trainer, signal.SIGKILL)
        with worker_process(site.settings, step_s=0.1):
            wait_for(lambda: True if any("lost" in text for text in site.messages(job.id)) else None, 10)
            frozen.send_signal(signal.SIGCONT)
            done = site.wait(job.id)
    assert done.status is JobStatus.SUCCEEDED
    assert done.details.metrics["train_loss"] == pytest.approx(4.65)


def test_sigterm_ends_the_worker_soon_and_the_next_one_goes_on(site: Site) -> None:
    job = site.create()
    with worker_process(site.settings, step_s=0.1) as process:
        site.wait_for_step(job.id, 3)
        process.terminate()
        assert process.wait(5) == 0
    assert site.job(job.id).status is JobStatus.QUEUED
    with worker_process(site.settings, step_s=0.01):
        assert site.wait(job.id).status is JobStatus.SUCCEEDED


def test_paused_job_has_no_process(site: Site) -> None:
    job = site.create()
    with worker_process(site.settings, step_s=0.1) as process:
        site.wait_for_step(job.id, 2)
        trainer = _child_of(process.pid)
        site.verb(verbs.pause_job, job.id)
        assert site.wait(job.id, JobStatus.PAUSED).status is JobStatus.PAUSED
        assert not is_alive(trainer)
        assert children_of(process.pid) == []


def test_job_cancelled_while_its_worker_is_dead_is_cancelled_by_the_next(site: Site) -> None:
    settings = long_lease(site)
    job = site.create()
    with worker_process(settings, step_s=0.1) as process:
        site.wait_for_step(job.id, 2)
        process.kill()
        process.wait()
        site.verb(verbs.cancel_job, job.id)
    with worker_process(settings):
        assert site.wait(job.id).status is JobStatus.CANCELLED


def _child_of(pid: int) -> int:
    return wait_for(lambda: next(iter(children_of(pid)), None), 5)
