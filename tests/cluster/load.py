"""What a cluster is asked to do: jobs of several projects, and clients of each that ask meanwhile."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI

from tests.cluster.clients import Told
from tests.cluster.site import BASE, Site, progress
from tunery.domain.jobs import FineTuningJob
from tunery.store import jobs
from tunery.store.database import read

ROWS = (Path(__file__).parents[2] / "examples" / "marv.jsonl").read_bytes()
EPOCHS, BATCH = 3, 4
POLL_S = 0.1
TOLD_EVERY_S = 5.0
GIVE_UP_S = 900.0


@dataclass(frozen=True)
class Project:
    id: str
    key: str
    file_id: str
    client: OpenAI


def open_projects(site: Site, number: int) -> list[Project]:
    """Each with a key and a training file of its own, made over the API."""
    admin = site.client.admin.organization.projects
    made: list[Project] = []
    for n in range(number):
        project = admin.create(name=f"customer {n}")
        account = admin.service_accounts.create(project.id, name="program")
        assert account.api_key is not None
        client = OpenAI(base_url=f"{site.balancer.url}/v1", api_key=account.api_key.value)
        file = client.files.create(file=("marv.jsonl", ROWS), purpose="fine-tune")
        made.append(Project(project.id, account.api_key.value, file.id, client))
    return made


@dataclass(frozen=True)
class Load:
    """One after the other: `start`, whatever is to happen meanwhile with `until`, `stop`."""

    site: Site
    projects: Sequence[Project]
    clients: list[subprocess.Popen[str]]
    job_ids: list[str]
    started_at: float  # time.monotonic()

    @classmethod
    def start(
        cls, site: Site, projects: Sequence[Project], name: str, *, num_jobs: int, num_clients: int, pause_s: float = 0
    ) -> "Load":
        share = num_clients // len(projects)
        clients = [start_clients(site, each, f"{name}-{n}", share, pause_s) for n, each in enumerate(projects) if share]
        for each in clients:
            _wait_until_asking(each)
        started_at = time.monotonic()
        ids = [create_job(projects[n % len(projects)], f"{name}-{n}") for n in range(num_jobs)]
        return cls(site, projects, clients, ids, started_at)

    def jobs(self) -> list[FineTuningJob]:
        with read(self.site.database) as conn:
            return [jobs.get_job(conn, job_id) for job_id in self.job_ids]

    def until(self, condition: Callable[[list[FineTuningJob]], object], what: str) -> list[FineTuningJob]:
        """The jobs when it holds of them, or when all have ended. Says every few seconds how far they are."""
        deadline, told_at = time.monotonic() + GIVE_UP_S, time.monotonic()
        while True:
            now = self.jobs()
            num_ended = sum(job.is_terminal for job in now)
            if condition(now) or num_ended == len(now):
                return now
            if time.monotonic() > deadline:
                raise TimeoutError(f"not in {GIVE_UP_S:.0f} s: {what}")
            if time.monotonic() > told_at + TOLD_EVERY_S:
                told_at = time.monotonic()
                progress(f"{num_ended} of {len(now)} jobs ended; waiting until {what}")
            time.sleep(POLL_S)

    def stop(self) -> "Done":
        """Once all jobs have ended."""
        ended = self.until(lambda _: False, "all jobs have ended")
        ended_at = time.monotonic()
        for clients in self.clients:
            assert clients.stdin is not None
            clients.stdin.close()
        told = [_told(clients) for clients in self.clients]
        return Done(list(self.projects), ended, told, self.started_at, ended_at)


@dataclass(frozen=True)
class Done:
    projects: list[Project]
    jobs: list[FineTuningJob]
    told: list[Told]  # of each project's clients
    started_at: float
    ended_at: float

    @property
    def took_s(self) -> float:
        return self.ended_at - self.started_at

    @property
    def jobs_per_s(self) -> float:
        return len(self.jobs) / self.took_s

    @property
    def latencies_s(self) -> list[float]:
        """Of what was answered while the jobs ran."""
        answers = [each for told in self.told for each in told.answers]
        return [took for at, took in answers if self.started_at < at <= self.ended_at]

    @property
    def requests_per_s(self) -> float:
        return len(self.latencies_s) / self.took_s


def start_clients(site: Site, project: Project, name: str, number: int, pause_s: float) -> subprocess.Popen[str]:
    arguments = (f"{site.balancer.url}/v1", project.key, name, str(number), str(pause_s))
    command = [sys.executable, "-m", "tests.cluster.clients", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _wait_until_asking(clients: subprocess.Popen[str]) -> None:
    assert clients.stdout is not None
    if clients.stdout.readline() != "asking\n":
        raise RuntimeError("the clients did not start")


def _told(clients: subprocess.Popen[str]) -> Told:
    assert clients.stdout is not None
    with clients:
        printed = clients.stdout.read()
    if clients.returncode:
        raise RuntimeError(f"clients ended with {clients.returncode}")
    return Told(**json.loads(printed))


def create_job(project: Project, name: str) -> str:
    """Under a key of its own, so that a retry of the SDK makes no second one."""
    hyperparameters = {"n_epochs": EPOCHS, "batch_size": BATCH}
    return project.client.fine_tuning.jobs.create(
        model=BASE,
        training_file=project.file_id,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},  # type: ignore[arg-type]
        extra_headers={"Idempotency-Key": name},
    ).id
