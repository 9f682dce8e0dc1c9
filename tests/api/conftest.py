"""An api in process on a fresh database, and where a test needs one, a real engine on a tiny random model."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, Engine

from tests.engine_process import start_engine
from tests.rows import fine_tuned_model
from tunery.api.app import create_app
from tunery.api.context import Context
from tunery.api.leased import LeasedRunner, LeasedWork
from tunery.domain.evals import OutputItem
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.ids import new_id
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.domain.models import FineTunedModel
from tunery.domain.tenants import ApiKey, Organization, Project, hash_secret, key_hint, lookup_prefix, new_secret
from tunery.jobs.identity import this_worker
from tunery.settings import Settings
from tunery.store import evals, jobs, models, tenants
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, write
from tunery.store.secrets import Secrets

NOW = 1_800_000_000.0
SECRET = "sk-test-first-key-of-this-server"
BASE = "gpt-4o-mini-2024-07-18"
EXAMPLE = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n'


class MutableClock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Api:
    """One server, and what a test needs to prepare its data."""

    client: TestClient  # sends the first key
    context: Context
    clock: MutableClock
    project_id: str
    organization_id: str

    @property
    def engine(self) -> Engine:
        return self.context.database

    def as_key(self, secret: str) -> dict[str, str]:
        return {"authorization": f"Bearer {secret}"}

    def make_key(self, **values: Any) -> str:
        """A key of this project unless `values` say otherwise; its secret."""
        secret = new_secret()
        key = ApiKey(
            id=new_id("key"),
            organization_id=self.organization_id,
            project_id=self.project_id,
            user_id=None,
            name="made by a test",
            prefix=lookup_prefix(secret),
            hash=hash_secret(secret),
            hint=key_hint(secret),
            created_at=int(NOW),
        )
        with write(self.engine) as conn:
            tenants.insert_key(conn, replace(key, **values))
        return secret

    def make_project(self, *, organization_id: str | None = None) -> str:
        project = Project(new_id("project"), organization_id or self.organization_id, "other", int(NOW))
        with write(self.engine) as conn:
            tenants.insert_project(conn, project)
        return project.id

    def make_stranger(self, **values: Any) -> str:
        """The secret of a key of another organisation."""
        organization = Organization(new_id("organization"), "strangers", "strangers", int(NOW))
        with write(self.engine) as conn:
            tenants.insert_organization(conn, organization)
        project_id = self.make_project(organization_id=organization.id)
        return self.make_key(**{"organization_id": organization.id, "project_id": project_id} | values)

    def make_file(self, content: bytes = EXAMPLE * 12, purpose: str = "fine-tune") -> dict[str, Any]:
        answer = self.client.post("/v1/files", files={"file": ("train.jsonl", content)}, data={"purpose": purpose})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def make_job(self, **values: Any) -> FineTuningJob:
        """A row as the worker would have left it."""
        job = FineTuningJob(
            id=new_id("job"),
            project_id=self.project_id,
            organization_id=self.organization_id,
            created_at=int(self.clock()),
            status=JobStatus.QUEUED,
            model=BASE,
            base_model=BASE,
            training_file="file-train",
            validation_file=None,
            method="supervised",
            hyperparameters=Hyperparameters(),
            seed=1,
        )
        job = replace(job, **values)
        with write(self.engine) as conn:
            jobs.insert_job(conn, job)
        return job

    def make_model(self, name: str = f"ft:{BASE}:personal::AbCd1234", **values: Any) -> FineTunedModel:
        owned = {"project_id": self.project_id, "owned_by": self.organization_id, "created_at": int(NOW)}
        model = fine_tuned_model(**{"name": name, "base_model": BASE} | owned | values)
        with write(self.engine) as conn:
            models.insert_model(conn, model)
        return model


def an_eval() -> dict[str, Any]:
    """What creates one, of rows that were answered already."""
    same = {"type": "string_check", "name": "same", "operation": "eq", "input": "{{item.a}}", "reference": "x"}
    return {"data_source_config": {"type": "custom", "item_schema": {}}, "testing_criteria": [same]}


def a_run() -> dict[str, Any]:
    source = {"type": "file_content", "content": [{"item": {"a": "x"}}]}
    return {"data_source": {"type": "jsonl", "source": source}}


def keep_output_item(conn: Connection, project_id: str, run_id: str) -> str:
    """What came of a run's first row; its id."""
    item = OutputItem(new_id("output_item"), run_id, project_id, int(NOW), "pass", 0, {"a": "x"}, [], {})
    evals.LEASES.claim(conn, "w", now=NOW, lease_s=1)
    assert evals.add_items(conn, run_id, "w", [evals.Graded(item)])
    evals.LEASES.free(conn, "w")
    return item.id


def make_one_of_each(api: Api) -> dict[str, str]:
    """The id of one of each thing, by the name of the path parameter that takes it."""

    def made(path: str, **body: object) -> str:
        answer = api.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()["id"]

    file, model = api.make_file(), api.make_model()
    project = f"/v1/organization/projects/{api.project_id}"
    account = made(f"{project}/service_accounts", name="robot")
    name = "train.jsonl"
    requests = api.make_file(purpose="batch")["id"]
    batch = {"input_file_id": requests, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    eval_id = made("/v1/evals", **an_eval())
    run_id = made(f"/v1/evals/{eval_id}/runs", **a_run())
    with write(api.engine) as conn:
        output_item_id = keep_output_item(conn, api.project_id, run_id)
    return {
        "project_id": api.project_id,
        "eval_id": eval_id,
        "run_id": run_id,
        "output_item_id": output_item_id,
        "file_id": file["id"],
        "batch_id": made("/v1/batches", **batch),
        "export_id": made(f"/tunery/v1/models/{model.name}/exports", format="adapter"),
        "import_id": made("/tunery/v1/imports", files=[file["id"]], base=BASE),
        "addition_id": made("/tunery/v1/organization/base_additions", source="hf:acme/tiny", name="tiny"),
        "base": "no-such-base",
        "model": model.name,
        "checkpoint": model.name,
        "job_id": api.make_job(training_file=file["id"]).id,
        "upload_id": made("/v1/uploads", filename=name, purpose="fine-tune", bytes=9, mime_type="text/jsonl"),
        "endpoint_id": made(
            "/v1/webhook_endpoints", name="x", url="https://example.com/", event_types=["fine_tuning.job.succeeded"]
        ),
        "user_id": api.client.get("/v1/organization/users").json()["data"][0]["id"],
        "api_key_id": api.client.get(f"{project}/api_keys").json()["data"][0]["id"],
        "service_account_id": account,
        "key_id": made("/v1/organization/admin_api_keys", name="x"),
    }


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrated once; each test copies it."""
    path = tmp_path_factory.mktemp("database") / "tunery.db"
    engine = connect(f"sqlite:///{path}", Secrets(path.with_name("secrets.key")))
    migrate(engine)
    with write(engine) as conn:
        bootstrap(conn, clock=lambda: NOW, key=SECRET)
    engine.dispose()
    return path


@pytest.fixture
def make_api(home: Path, fresh_database: Path) -> Iterator[Callable[..., Api]]:
    clients: list[TestClient] = []

    def make(**settings: Any) -> Api:
        for file in (fresh_database, fresh_database.with_name("secrets.key")):
            shutil.copy(file, home)
        clock = MutableClock()
        app = create_app(Settings(home=home, **settings), clock)
        client = TestClient(app, headers={"authorization": f"Bearer {SECRET}"}, raise_server_exceptions=False)
        clients.append(client.__enter__())
        context: Context = app.state.context
        with context.database.connect() as conn:
            organization = tenants.list_organizations(conn)[0]
            project = tenants.list_projects(conn, organization.id).items[0]
        return Api(client, context, clock, project.id, organization.id)

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def bootstrapped_postgres(postgres_url: str) -> str:
    database = connect(postgres_url)
    with write(database) as conn:
        bootstrap(conn, clock=lambda: NOW, key=SECRET)
    database.dispose()
    return postgres_url


@pytest.fixture(params=["sqlite", "postgres"])
def make_each_api(request: pytest.FixtureRequest) -> Callable[..., Api]:
    """Runs the test twice: on SQLite and on Postgres."""
    if request.param == "sqlite":
        return request.getfixturevalue("make_api")
    url = request.getfixturevalue("bootstrapped_postgres")
    return partial(request.getfixturevalue("make_api"), database_url=url)


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


@pytest.fixture(scope="session")
def engine_url(tiny_model_dir: Path, encoder_cache: Path) -> Iterator[str]:
    engine = start_engine(tiny_model_dir, encoder_cache=encoder_cache)
    yield engine.url
    engine.kill()


@pytest.fixture(scope="session")
def tiny_adapter_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny model that changes what it says."""
    from tests.serving.peft_adapters import write_adapter

    modules = ["q_proj", "v_proj", "down_proj"]
    return write_adapter(tiny_model_dir, tmp_path_factory.mktemp("adapter"), rank=4, modules=modules, seed=3)


@contextmanager
def leased_worker(context: Context, kind: type[LeasedWork[Any]]) -> Iterator[None]:
    """The part of a worker that answers batches, or runs of evals, beside the api with this context."""
    stop = threading.Event()
    found = LeasedRunner(Context.open(context.settings, context.clock), this_worker(), (kind,))
    thread = threading.Thread(target=found.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
