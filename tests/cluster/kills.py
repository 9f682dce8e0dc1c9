"""Kills one part of each kind at its work, as a power cut would, while jobs train and clients ask."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from tests.cluster.load import Load
from tests.cluster.site import progress
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.jobs.identity import parse_identity

STEPS = 3  # that a job has done when its node is killed, at least
SEVERAL = 2  # requests that an api or an engine works on when it is killed, at least
LOOK_S = 30.0


@dataclass(frozen=True)
class Killed:
    part: str
    after_s: float  # since the jobs were created
    at_work_on: list[str]  # what it did at that moment


def kill_one_of_each(load: Load) -> list[Killed]:
    """A node, an api, an engine and a worker, one after the other while the jobs end."""
    kills = (_kill_node, _kill_api, _kill_engine, _kill_worker)
    killed: list[Killed] = []
    for n, kill in enumerate(kills, start=1):
        number = len(load.job_ids) * n // (len(kills) + 1)
        part, at_work_on = kill(load, number)
        killed.append(Killed(part, time.monotonic() - load.started_at, at_work_on))
        progress(f"killed {part}, which was at work on {', '.join(at_work_on) or 'nothing'}")
    return killed


def _ended(jobs: Sequence[FineTuningJob]) -> int:
    return sum(job.is_terminal for job in jobs)


def _kill_node(load: Load, number: int) -> tuple[str, list[str]]:
    """Once so many jobs have ended, and it is in the middle of another."""
    jobs = load.until(lambda jobs: _ended(jobs) >= number and _trained_on(jobs, "one"), "node one trains")
    trainers = load.site.cluster.trainers("one")
    load.site.cluster.kill("one")
    at_work_on = [f"{job.id} (step {job.step} of {job.total_steps})" for job in _trained_on(jobs, "one")]
    return "node one", at_work_on if trainers else []


def _trained_on(jobs: Sequence[FineTuningJob], node: str) -> list[FineTuningJob]:
    """So that they are lost with the node: begun, and not about to end."""
    running = [job for job in jobs if job.status is JobStatus.RUNNING and job.details.node == node]
    return [job for job in running if STEPS <= job.step <= (job.total_steps or 0) // 2]


def _kill_api(load: Load, number: int) -> tuple[str, list[str]]:
    load.until(lambda jobs: _ended(jobs) >= number, f"{number} jobs have ended")
    port = load.site.ports["api one"]
    running = _at_work(lambda: load.site.balancer.num_asking(port))
    load.site.kill("api one")
    return "api one", [f"{running} requests"] if running else []


def _kill_engine(load: Load, number: int) -> tuple[str, list[str]]:
    load.until(lambda jobs: _ended(jobs) >= number, f"{number} jobs have ended")
    url = f"{load.site.parts['engine two'].url}/load"
    running = _at_work(lambda: httpx.get(url).json()["server_load"])
    load.site.kill("engine two")
    return "engine two", [f"{running} requests"] if running else []


def _at_work(look: Callable[[], int]) -> int:
    """How many requests it works on, once there are several: between two it has nothing to lose."""
    deadline = time.monotonic() + LOOK_S
    while (running := look()) < SEVERAL and time.monotonic() < deadline:
        time.sleep(0.001)
    return running


def _kill_worker(load: Load, number: int) -> tuple[str, list[str]]:
    """The one that has the most jobs."""
    jobs = load.until(lambda jobs: _ended(jobs) >= number, f"{number} jobs have ended")
    holders = Counter(job.worker_id for job in jobs if job.status is JobStatus.RUNNING and job.worker_id)
    workers = {name: part for name, part in load.site.parts.items() if name.startswith("worker")}

    def held(name: str) -> int:
        pid = workers[name].process.pid
        return sum(times for each, times in holders.items() if (holder := parse_identity(each)) and holder.pid == pid)

    name = max(workers, key=held)
    at_work_on = [f"{held(name)} jobs"] if held(name) else []
    load.site.kill(name)
    return name, at_work_on
