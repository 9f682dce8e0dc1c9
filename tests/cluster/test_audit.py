"""The audit finds what was lost and what was repeated where something was."""

from openai import OpenAI
from sqlalchemy import Engine

from tests.cluster import audit
from tests.cluster.clients import ASKED, Told
from tests.cluster.load import Done, Project
from tests.rows import fine_tuned_model
from tests.store.conftest import NOW, MakeJob, Tenant, make_job, tenant
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.domain.usage import Cost, TokenUsage, UsageRecord
from tunery.store import events, models, usage
from tunery.store.database import write

__all__ = ["make_job", "tenant"]


def done(tenant: Tenant, jobs: list[FineTuningJob], told: Told) -> Done:
    client = OpenAI(base_url="http://127.0.0.1:1/v1", api_key="sk-nobody", max_retries=0)
    return Done([Project(tenant.project_id, "sk-nobody", "file", client)], jobs, [told], 0.0, 1.0)


def charge(database: Engine, tenant: Tenant, request_id: str, client_id: str | None, tokens: int) -> None:
    used = TokenUsage(input_tokens=tokens, output_tokens=1)
    about = (tenant.project_id, "", "key", "model", NOW, used, Cost(), "usd")
    with write(database) as conn:
        usage.record_usage(conn, UsageRecord(request_id, "completion", *about, client_request_id=client_id))
        usage.mark_delivered(conn, [request_id])


def test_nothing_is_found_where_all_is_well(database: Engine, tenant: Tenant, make_job: MakeJob) -> None:
    with write(database) as conn:
        job = make_job(conn, status=JobStatus.SUCCEEDED, total_steps=2)
        for step in (1, 2):
            events.add_event(conn, job.id, f"Step {step}", now=NOW, type="metrics", data={"step": step})
        events.add_event(conn, job.id, audit.SUCCESS, now=NOW)
    charge(database, tenant, "req_1", f"{ASKED}1", 7)
    stages = [done(tenant, [job], Told(input_tokens=7, output_tokens=1))]
    found = audit.lost(database, stages) | audit.repeated(database, stages)
    assert len(found) == 10 and not any(found.values())


def test_each_loss_and_each_repetition_is_found(database: Engine, tenant: Tenant, make_job: MakeJob) -> None:
    with write(database) as conn:
        failed = make_job(conn, status=JobStatus.FAILED, total_steps=3)
        silent = make_job(conn, status=JobStatus.SUCCEEDED, fine_tuned_model="ft:nobody-has-it")
        for step in (3, 1, 3, 3):
            events.add_event(conn, failed.id, f"Step {step}", now=NOW, type="metrics", data={"step": step})
        for _ in range(2):
            events.add_event(conn, silent.id, audit.SUCCESS, now=NOW)
        for name in ("ft:a", "ft:b"):
            made = fine_tuned_model(name=name, project_id=tenant.project_id, job_id=silent.id, step_number=2)
            models.insert_model(conn, made)
    for request_id in ("req_1", "req_2"):
        charge(database, tenant, request_id, f"{ASKED}1", 7)
    stages = [done(tenant, [failed, silent], Told(input_tokens=7, output_tokens=3, unanswered=["5: nothing came"]))]

    lost, repeated = audit.lost(database, stages), audit.repeated(database, stages)
    assert lost["jobs that did not succeed"] == [f"{failed.id} is failed: None"]
    assert lost["steps never told"] == [f"{failed.id}: [2]"]
    assert len(lost["models that do not answer"]) == 1
    assert lost["requests unanswered"] == ["5: nothing came"]
    assert lost["tokens received and not charged"] == [f"output_tokens of {tenant.project_id}: 3 received, 2 charged"]
    assert repeated["steps told twice or late"] == [f"{failed.id}: [1, 3]"]
    assert repeated["jobs ended twice"] == [f"{silent.id} has succeeded 2 times"]
    assert repeated["models registered twice"] == [f"{silent.id}, step 2: 2 models"]
    assert repeated["charged twice"] == [f"{ASKED}1: 2 times"]
    assert repeated["tokens charged and not received"] == [
        f"input_tokens of {tenant.project_id}: 7 received, 14 charged"
    ]
