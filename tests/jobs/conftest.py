"""A worker's surroundings: a fresh database and blobs, a catalog with one tiny base, and a caller."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from tests.jobs.waiting import wait_for
from tunery.domain.clock import system_clock
from tunery.domain.files import File, FilePurpose
from tunery.domain.ids import new_id
from tunery.domain.jobs import FineTuningJob, JobEvent
from tunery.domain.tenants import Caller, Role
from tunery.jobs import verbs
from tunery.jobs.hold import ProcessRunner
from tunery.jobs.requests import JobRequest
from tunery.jobs.runner import Runner
from tunery.jobs.worker import Worker
from tunery.models.catalog import Catalog
from tunery.settings import Settings, load_settings
from tunery.store import events, files, jobs
from tunery.store.blobs import Blobs
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, open_database, read, write
from tunery.store.secrets import Secrets
from tunery.store.tables import projects, users

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Say number {n}."},
            {"role": "assistant", "content": f"Number {n}, of course."},
        ]
    }
    for n in range(12)
]


@dataclass
class Site:
    settings: Settings
    engine: Engine
    blobs: Blobs
    catalog: Catalog
    caller: Caller

    def add_file(self, rows: list[dict[str, Any]], purpose: FilePurpose = FilePurpose.FINE_TUNE) -> str:
        file_id = new_id("file")
        info = self.blobs.put(f"files/{file_id}", "".join(json.dumps(row) + "\n" for row in rows).encode())
        file = File(
            file_id, self.caller.project_id, int(system_clock()), "rows.jsonl", purpose, info.bytes, info.sha256,
            info.path,
        )  # fmt: skip
        with write(self.engine) as conn:
            files.insert_file(conn, file)
        return file_id

    def create(self, **changes: Any) -> FineTuningJob:
        values: dict[str, Any] = {"model": "tiny-1", **changes}
        if "training_file" not in values:
            values["training_file"] = self.add_file(ROWS)
        with write(self.engine) as conn:
            return verbs.create_job(
                conn, JobRequest(**values), caller=self.caller, catalog=self.catalog, settings=self.settings
            )

    def job(self, job_id: str) -> FineTuningJob:
        with read(self.engine) as conn:
            return jobs.get_job(conn, job_id)

    def events(self, job_id: str) -> list[JobEvent]:
        """Oldest first."""
        with read(self.engine) as conn:
            return list(events.list_events(conn, job_id, limit=10_000).items)[::-1]

    def messages(self, job_id: str) -> list[str]:
        return [event.message for event in self.events(job_id)]

    def verb(self, verb: Callable[..., FineTuningJob], job_id: str) -> FineTuningJob:
        with write(self.engine) as conn:
            return verb(conn, job_id, self.caller.project_id)

    def wait(self, job_id: str, *statuses: str, timeout_s: float = 30) -> FineTuningJob:
        """The job once it is in one of the statuses, or has ended."""

        def look() -> FineTuningJob | None:
            job = self.job(job_id)
            return job if job.status in statuses or job.is_terminal else None

        return wait_for(look, timeout_s)

    def wait_for_step(self, job_id: str, step: int, timeout_s: float = 30) -> FineTuningJob:
        def look() -> FineTuningJob | None:
            job = self.job(job_id)
            return job if job.step >= step or job.is_terminal else None

        return wait_for(look, timeout_s)

    @contextmanager
    def worker(self, command: tuple[str, ...], runner: Runner | None = None) -> Iterator[threading.Event]:
        """A worker in a thread of this process, stopped at the end of the block."""
        stop = threading.Event()
        runner = runner or ProcessRunner(self.blobs, self.settings.models_dir, command)
        worker = Worker(self.settings, self.engine, self.blobs, self.catalog, runner=runner)
        thread = threading.Thread(target=worker.run, args=(stop,))
        thread.start()
        try:
            yield stop
        finally:
            stop.set()
            thread.join()


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema and the first project, to be copied: migrating takes half a second."""
    path = tmp_path_factory.mktemp("database") / "tunery.db"
    engine = connect(f"sqlite:///{path}", Secrets(path.with_name("secrets.key")))
    migrate(engine)
    with write(engine) as conn:
        bootstrap(conn, clock=system_clock, key="sk-test-key")
    engine.dispose()
    return path


@pytest.fixture
def base_settings(home: Path, tiny_model_dir: Path) -> Settings:
    catalog = home / "catalog.toml"
    catalog.write_text(
        f'[bases.tiny]\nsource = "path:{tiny_model_dir}"\ncontext_length = 2048\nlearning_rate = 0.01\n'
        'lora_rank = 4\nlora_alpha = 8\n[[models]]\nname = "tiny-1"\nbase = "tiny"\n'
    )
    prices = home / "prices.toml"
    prices.write_text('currency = "usd"\n[default]\ntraining = 3_000_000\ninput = 0\ncached_input = 0\noutput = 0\n')
    return load_settings(
        home=home, catalog=catalog, prices=prices, lease_s=3, state_interval_s=0.5, worker_concurrency=2
    )


@pytest.fixture
def site(base_settings: Settings, migrated_database: Path) -> Iterator[Site]:
    for file in (migrated_database, migrated_database.with_name("secrets.key")):
        shutil.copy(file, base_settings.home)
    with open_site(base_settings) as site:
        yield site


@contextmanager
def open_site(settings: Settings) -> Iterator[Site]:
    """For a database that has had its first start."""
    engine = open_database(settings)
    with read(engine) as conn:
        user = conn.execute(select(users)).one()
        project_id = conn.execute(select(projects.c.id)).scalar_one()
    caller = Caller("key_1", user.organization_id, project_id, user.id, Role.OWNER)
    yield Site(settings, engine, Blobs.open(settings), Catalog.load(settings.catalog), caller)
    engine.dispose()
