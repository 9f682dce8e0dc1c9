"""A migrated database on SQLite and on Postgres, with one organisation and two projects in it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.ids import new_id
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.domain.tenants import Organization, Project, Role, User
from tunery.store import jobs, tenants
from tunery.store.database import write

NOW = 1_800_000_000


@dataclass(frozen=True)
class Tenant:
    organization_id: str
    project_id: str
    other_project_id: str
    user_id: str


@pytest.fixture
def tenant(database: Engine) -> Tenant:
    organization = Organization(new_id("organization"), "Acme", "acme", NOW)
    first, second = (Project(new_id("project"), organization.id, name, NOW) for name in ("one", "two"))
    user = User(new_id("user"), organization.id, "Ada", "ada@acme.test", Role.OWNER, NOW)
    with write(database) as conn:
        tenants.insert_organization(conn, organization)
        tenants.insert_project(conn, first)
        tenants.insert_project(conn, second)
        tenants.insert_user(conn, user)
    return Tenant(organization.id, first.id, second.id, user.id)


@pytest.fixture
def conn(database: Engine, tenant: Tenant) -> Iterator[Connection]:
    """One writing transaction for the whole test; for races use `database`."""
    with write(database) as conn:
        yield conn


MakeJob = Callable[..., FineTuningJob]


@pytest.fixture
def make_job(tenant: Tenant) -> MakeJob:
    def make(conn: Connection, **changes: Any) -> FineTuningJob:
        values: dict[str, Any] = {
            "id": new_id("job"),
            "project_id": tenant.project_id,
            "organization_id": tenant.organization_id,
            "created_at": NOW,
            "status": JobStatus.QUEUED,
            "model": "gpt-4o-mini-2024-07-18",
            "base_model": "gpt-4o-mini-2024-07-18",
            "training_file": "file-train",
            "validation_file": None,
            "method": "supervised",
            "hyperparameters": Hyperparameters(),
            "seed": 1,
        }
        job = FineTuningJob(**values | changes)
        jobs.insert_job(conn, job)
        return job

    return make
