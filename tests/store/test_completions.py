"""Stored completions, idempotency keys, workers."""

import pytest
from sqlalchemy import Connection

from tests.store.conftest import NOW, Tenant
from tunery.domain.completions import StoredCompletion
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.ids import new_id
from tunery.store import completions, jobs, workers


def store(conn: Connection, tenant: Tenant, model: str = "ft:m", **metadata: str) -> StoredCompletion:
    completion = StoredCompletion(
        new_id("chat"), tenant.project_id, NOW, model, {"messages": []}, {"choices": [{"index": 0}]}, metadata or None
    )
    completions.insert_completion(conn, completion)
    return completion


def test_completions_are_listed_oldest_first_and_filtered(conn: Connection, tenant: Tenant) -> None:
    first, second = store(conn, tenant, team="a"), store(conn, tenant, model="ft:other", team="b")
    project = tenant.project_id
    assert completions.list_completions(conn, project).items == (first, second)
    assert completions.list_completions(conn, project, order="desc", limit=1).items == (second,)
    assert completions.list_completions(conn, project, model="ft:m").items == (first,)
    assert completions.list_completions(conn, project, metadata={"team": "b"}).items == (second,)
    assert completions.list_completions(conn, project, after=first.id).items == (second,)


def test_another_projects_completion_does_not_exist(conn: Connection, tenant: Tenant) -> None:
    completion = store(conn, tenant)
    with pytest.raises(NotFound):
        completions.get_completion(conn, completion.id, tenant.other_project_id)
    with pytest.raises(NotFound):
        completions.update_completion_metadata(conn, completion.id, tenant.other_project_id, {})
    with pytest.raises(NotFound):
        completions.delete_completion(conn, completion.id, tenant.other_project_id)


def test_only_the_metadata_changes(conn: Connection, tenant: Tenant) -> None:
    completion = store(conn, tenant, team="a")
    changed = completions.update_completion_metadata(conn, completion.id, tenant.project_id, {"team": "b"})
    assert changed.metadata == {"team": "b"} and changed.response == completion.response
    completions.delete_completion(conn, completion.id, tenant.project_id)
    with pytest.raises(NotFound):
        completions.delete_completion(conn, completion.id, tenant.project_id)


def test_a_repeated_create_leads_to_the_first_job(conn: Connection, tenant: Tenant) -> None:
    project = tenant.project_id
    assert jobs.find_job_id(conn, project, "key", "hash") is None
    assert jobs.remember_job(conn, project, "key", request_hash="hash", job_id="ftjob-1", now=NOW)
    assert not jobs.remember_job(conn, project, "key", request_hash="hash", job_id="ftjob-2", now=NOW)
    assert jobs.find_job_id(conn, project, "key", "hash") == "ftjob-1"
    assert jobs.find_job_id(conn, tenant.other_project_id, "key", "hash") is None
    with pytest.raises(InvalidRequest, match="other parameters"):
        jobs.find_job_id(conn, project, "key", "another hash")


def test_workers_tell_that_they_live(conn: Connection) -> None:
    workers.worker_seen(conn, "w1", "host", NOW)
    workers.worker_seen(conn, "w2", "host", NOW + 50)
    workers.worker_seen(conn, "w1", "host", NOW + 60)
    assert workers.count_workers(conn, seen_since=NOW + 55) == 1
    assert workers.count_workers(conn, seen_since=NOW) == 2
    workers.worker_gone(conn, "w1")
    assert workers.count_workers(conn, seen_since=NOW) == 1
