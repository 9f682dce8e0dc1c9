import pytest
from sqlalchemy import Connection

from tests.store.conftest import NOW, MakeJob, Tenant
from tunery.domain.errors import NotFound
from tunery.domain.ids import new_id
from tunery.domain.job_details import JobDetails
from tunery.domain.jobs import Checkpoint, FineTuningJob, JobError, JobStatus
from tunery.store import events, jobs
from tunery.store.paging import Page


def ids(page: Page[FineTuningJob]) -> list[str]:
    return [job.id for job in page.items]


def test_a_job_comes_back_as_it_was_stored(conn: Connection, make_job: MakeJob) -> None:
    job = make_job(conn, metadata={"a": "b"}, integrations=[{"type": "wandb"}], error=JobError("c", "m"), suffix="s")
    assert jobs.get_job(conn, job.id) == job


def test_another_projects_job_does_not_exist(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    job = make_job(conn)
    with pytest.raises(NotFound, match=f"Could not find fine tune: {job.id}"):
        jobs.get_job(conn, job.id, tenant.other_project_id)
    assert jobs.list_jobs(conn, tenant.other_project_id).items == ()


def test_pages_lead_to_the_end_newest_first_even_within_one_second(
    conn: Connection, tenant: Tenant, make_job: MakeJob
) -> None:
    made = [make_job(conn, created_at=NOW + index // 3).id for index in range(10)]
    seen, after = [], None
    while True:
        page = jobs.list_jobs(conn, tenant.project_id, after=after, limit=4)
        seen += ids(page)
        if not page.has_more:
            break
        after = page.items[-1].id
    assert seen == list(reversed(made))


def test_a_page_that_is_full_to_the_last_job_has_no_more(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    for _ in range(3):
        make_job(conn)
    assert jobs.list_jobs(conn, tenant.project_id, limit=3).has_more is False
    assert jobs.list_jobs(conn, tenant.project_id, limit=2).has_more is True


@pytest.mark.parametrize(("after", "limit"), [("ftjob-unknown", 20), (None, 0)])
def test_an_unknown_cursor_and_a_limit_of_nothing_give_an_empty_page(
    conn: Connection, tenant: Tenant, make_job: MakeJob, after: str | None, limit: int
) -> None:
    make_job(conn)
    assert jobs.list_jobs(conn, tenant.project_id, after=after, limit=limit) == Page()


def test_another_projects_job_is_no_cursor(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    mine, foreign = make_job(conn), make_job(conn, project_id=tenant.other_project_id)
    assert ids(jobs.list_jobs(conn, tenant.project_id)) == [mine.id]
    assert jobs.list_jobs(conn, tenant.project_id, after=foreign.id) == Page()


def test_metadata_pairs_must_all_match(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    both = make_job(conn, metadata={"team": "a", "run": "1"})
    one = make_job(conn, metadata={"team": "a", "run": ""})
    none, empty = make_job(conn), make_job(conn, metadata={})

    def found(metadata: dict[str, str] | str | None) -> list[str]:
        return ids(jobs.list_jobs(conn, tenant.project_id, metadata=metadata))

    assert found({"team": "a"}) == [one.id, both.id]
    assert found({"team": "a", "run": "1"}) == [both.id]
    assert found({"run": ""}) == [one.id]
    assert found("null") == [none.id]
    assert found(None) == found({}) == [empty.id, none.id, one.id, both.id]


@pytest.mark.parametrize("key", ['quote"d', "it's", "a.b", "$[0]", "ünï", "100%", "a\\b", "?"])
def test_a_metadata_key_may_hold_any_character(conn: Connection, tenant: Tenant, make_job: MakeJob, key: str) -> None:
    job = make_job(conn, metadata={key: "value " + key})
    assert ids(jobs.list_jobs(conn, tenant.project_id, metadata={key: "value " + key})) == [job.id]
    assert ids(jobs.list_jobs(conn, tenant.project_id, metadata={key: "other"})) == []


def test_a_file_is_in_use_until_its_job_has_ended(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    make_job(conn, training_file="file-a", validation_file="file-b")
    make_job(conn, training_file="file-c", status=JobStatus.SUCCEEDED)
    used = [jobs.is_file_in_use(conn, file_id, tenant.project_id) for file_id in ("file-a", "file-b", "file-c")]
    assert used == [True, True, False]
    assert not jobs.is_file_in_use(conn, "file-a", tenant.other_project_id)


def test_counts_for_limits_and_metrics(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    make_job(conn, created_at=NOW - 90_000)
    make_job(conn, created_at=NOW - 10)
    make_job(conn, status=JobStatus.RUNNING)
    assert jobs.count_jobs(conn, tenant.project_id) == 3
    assert jobs.count_jobs(conn, tenant.project_id, created_since=NOW - 86_400) == 2
    assert jobs.count_by_status(conn) == {JobStatus.QUEUED: 2, JobStatus.RUNNING: 1}
    assert jobs.oldest_queued_at(conn) == NOW - 90_000


def test_details_are_merged(conn: Connection, make_job: MakeJob) -> None:
    job = make_job(conn, details=JobDetails(hyperparameter_reasons={"n_epochs": "few examples"}))
    jobs.update_details(conn, job.id, parity={"ok": True})
    assert jobs.get_job(conn, job.id).details == JobDetails(
        hyperparameter_reasons={"n_epochs": "few examples"}, parity={"ok": True}
    )


def test_events_come_newest_first_though_the_clock_steps_back(conn: Connection, make_job: MakeJob) -> None:
    job, other = make_job(conn), make_job(conn)
    for index in range(5):
        events.add_event(conn, job.id, f"event {index}", now=NOW - index, data={"step": index})
    events.add_event(conn, other.id, "not ours", now=NOW)
    first = events.list_events(conn, job.id, limit=2)
    assert [event.message for event in first.items] == ["event 4", "event 3"] and first.has_more
    rest = events.list_events(conn, job.id, after=first.items[-1].id, limit=10)
    assert [event.message for event in rest.items] == ["event 2", "event 1", "event 0"] and not rest.has_more
    assert rest.items[0].data == {"step": 2}
    assert events.list_events(conn, job.id, after="ftevent-unknown") == Page()


def test_checkpoints_come_highest_step_first(conn: Connection, make_job: MakeJob) -> None:
    job = make_job(conn)
    for step in (20, 10, 30):
        name = f"ft:m:o:s:abcdefgh:ckpt-step-{step}"
        events.add_checkpoint(conn, Checkpoint(new_id("checkpoint"), job.id, NOW, step, name, {"train_loss": 0.5}))
    page = events.list_checkpoints(conn, job.id, limit=2)
    assert [checkpoint.step_number for checkpoint in page.items] == [30, 20] and page.has_more
    (last,) = events.list_checkpoints(conn, job.id, after=page.items[-1].id).items
    assert (last.step_number, last.metrics) == (10, {"train_loss": 0.5})
