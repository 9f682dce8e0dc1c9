import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from tests.store.conftest import NOW, MakeJob, Tenant
from tunery.domain.errors import InvalidTransition
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import FineTuningJob, JobError, JobStatus
from tunery.domain.limits import Limits
from tunery.store import claims, jobs
from tunery.store.database import read, write
from tunery.store.limits import set_limits

LEASE_S = 30.0


def claim(conn: Connection, worker_id: str = "worker", now: float = NOW, **more: Any) -> FineTuningJob | None:
    return claims.claim_next_job(conn, worker_id, now=now, lease_s=LEASE_S, **more)


def at_once(actions: list[Callable[[], Any]]) -> list[Any]:
    """Runs all actions from one starting line. An exception is a result like any other."""
    line, results = threading.Barrier(len(actions)), [None] * len(actions)

    def run(index: int) -> None:
        line.wait()
        try:
            results[index] = actions[index]()
        except Exception as exc:
            results[index] = exc

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_a_claimed_job_runs_under_a_lease(conn: Connection, make_job: MakeJob) -> None:
    make_job(conn)
    job = claim(conn)
    assert job is not None
    assert (job.status, job.worker_id, job.attempts) == (JobStatus.RUNNING, "worker", 0)
    assert (job.started_at, job.lease_expires_at) == (NOW, NOW + LEASE_S)
    assert claim(conn) is None


def test_many_workers_claim_each_job_once(database: Engine, tenant: Tenant, make_job: MakeJob) -> None:
    with write(database) as conn:
        made = {make_job(conn).id for _ in range(12)}

    def work(worker_id: str) -> list[str]:
        mine = []
        while len(mine) < 12:
            with write(database) as conn:
                job = claim(conn, worker_id)
            if job is None:
                return mine
            mine.append(job.id)
        return mine

    results = at_once([lambda name=name: work(f"worker-{name}") for name in range(6)])
    claimed = [job_id for result in results for job_id in result]
    with write(database) as conn:  # a worker may have met only locked rows and left: what is over is claimed now
        while (job := claim(conn)) is not None:
            claimed.append(job.id)
    assert Counter(claimed) == Counter(made)


def test_projects_take_turns_while_one_worker_works_job_by_job(
    conn: Connection, tenant: Tenant, make_job: MakeJob
) -> None:
    for index in range(4):
        make_job(conn, created_at=NOW + index)
    late = make_job(conn, created_at=NOW + 100, project_id=tenant.other_project_id)
    order = []
    for turn in range(5):
        job = claim(conn, now=NOW + 200 + turn)
        assert job
        order.append(job.project_id)
        claims.fail_job(conn, job.id, "worker", error=JobError("c", "m"), now=NOW)
    assert order[1] == late.project_id, "the other project's only job waits for one job, not for four"


def test_the_project_with_fewer_running_jobs_is_served_first(
    conn: Connection, tenant: Tenant, make_job: MakeJob
) -> None:
    for _ in range(3):
        make_job(conn)
    for _ in range(2):
        make_job(conn, project_id=tenant.other_project_id)
    projects = [job.project_id for turn in range(4) if (job := claim(conn, now=NOW + turn))]
    assert Counter(projects) == {tenant.project_id: 2, tenant.other_project_id: 2}


def test_the_oldest_job_of_a_project_comes_first(conn: Connection, make_job: MakeJob) -> None:
    young, old = make_job(conn, created_at=NOW + 5), make_job(conn, created_at=NOW)
    assert [job.id for _ in range(2) if (job := claim(conn))] == [old.id, young.id]


def test_a_project_at_its_limit_is_passed_over(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    set_limits(conn, tenant.project_id, Limits(max_running_jobs=1), NOW)
    for _ in range(2):
        make_job(conn)
    assert claim(conn) is not None
    assert claim(conn) is None
    other = make_job(conn, project_id=tenant.other_project_id)
    assert [job.id for _ in range(2) if (job := claim(conn))] == [other.id]


def test_the_setting_limits_projects_without_limits_of_their_own(
    conn: Connection, tenant: Tenant, make_job: MakeJob
) -> None:
    for _ in range(2):
        make_job(conn)
    assert claim(conn, max_running=1) is not None
    assert claim(conn, max_running=1) is None
    set_limits(conn, tenant.project_id, Limits(max_running_jobs=0), NOW)
    assert claim(conn, max_running=1) is not None


def test_a_validating_job_goes_to_one_checker_until_its_lease_ends(conn: Connection, make_job: MakeJob) -> None:
    job = make_job(conn, status=JobStatus.VALIDATING_FILES)
    first = claims.claim_validating(conn, "first", now=NOW, lease_s=LEASE_S)
    assert first is not None and first.id == job.id
    assert claims.claim_validating(conn, "second", now=NOW + 1, lease_s=LEASE_S) is None
    again = claims.claim_validating(conn, "second", now=NOW + LEASE_S + 1, lease_s=LEASE_S)
    assert again is not None and again.worker_id == "second"
    with pytest.raises(InvalidTransition):
        claims.accept_job(conn, job.id, "first")
    assert claims.accept_job(conn, job.id, "second").status is JobStatus.QUEUED


def test_a_heartbeat_prolongs_the_lease_and_tells_what_is_wanted(
    conn: Connection, tenant: Tenant, make_job: MakeJob
) -> None:
    job = make_job(conn)
    claim(conn)
    flags = claims.heartbeat(conn, job.id, "worker", now=NOW + 5, lease_s=LEASE_S, step=7, estimated_finish=NOW + 99)
    assert flags == claims.Flags(pause_requested=False)
    kept = jobs.get_job(conn, job.id)
    assert (kept.lease_expires_at, kept.step, kept.estimated_finish) == (NOW + 5 + LEASE_S, 7, NOW + 99)
    jobs.pause_job(conn, job.id, tenant.project_id, NOW)
    assert claims.heartbeat(conn, job.id, "worker", now=NOW, lease_s=LEASE_S) == claims.Flags(True)


def test_a_worker_that_lost_its_job_hears_so(conn: Connection, make_job: MakeJob) -> None:
    job = make_job(conn)
    claim(conn, "old")
    assert claims.requeue_stalled(conn, now=NOW + LEASE_S + 1)[0].id == job.id
    claim(conn, "new")
    assert claims.heartbeat(conn, job.id, "old", now=NOW, lease_s=LEASE_S) is None
    with pytest.raises(InvalidTransition):
        claims.pause_job(conn, job.id, "old", now=NOW)


def test_a_live_lease_is_not_taken_away(conn: Connection, make_job: MakeJob) -> None:
    make_job(conn)
    claim(conn)
    assert claims.requeue_stalled(conn, now=NOW + LEASE_S - 1) == ()


def test_a_stalled_job_is_queued_again_and_keeps_its_progress(conn: Connection, make_job: MakeJob) -> None:
    job = make_job(conn)
    claim(conn)
    claims.start_job(conn, job.id, "worker", hyperparameters=Hyperparameters(3, 4, 2.0, 0.1), total_steps=30)
    claims.heartbeat(conn, job.id, "worker", now=NOW, lease_s=LEASE_S, step=12)
    (back,) = claims.requeue_stalled(conn, now=NOW + LEASE_S + 1)
    assert (back.status, back.worker_id, back.step, back.total_steps) == (JobStatus.QUEUED, None, 12, 30)
    again = claim(conn)
    assert again is not None and (again.attempts, again.started_at) == (0, NOW)


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({"cancel_requested": True}, JobStatus.CANCELLED),  # as version 0.1 left it
        ({"pause_requested": True}, JobStatus.PAUSED),
        ({}, JobStatus.QUEUED),
    ],
)
def test_a_stalled_job_goes_where_it_was_wanted(
    conn: Connection, make_job: MakeJob, wish: dict[str, bool], status: JobStatus
) -> None:
    make_job(conn, status=JobStatus.RUNNING, worker_id="worker", lease_expires_at=NOW, attempts=4, **wish)
    (ended,) = claims.requeue_stalled(conn, now=NOW + 1)
    assert ended.status is status
    assert (ended.finished_at is None) == (status is not JobStatus.CANCELLED)
    assert ended.error is None


def test_lost_workers_are_no_fault_of_the_job_however_many(conn: Connection, make_job: MakeJob) -> None:
    make_job(conn)
    for _ in range(50):
        assert claim(conn) is not None
        (back,) = claims.requeue_stalled(conn, now=NOW + LEASE_S + 1)
        assert (back.status, back.attempts) == (JobStatus.QUEUED, 0)


def test_deaths_of_the_trainer_count_until_the_job_has_got_further(conn: Connection, make_job: MakeJob) -> None:
    job = make_job(conn)
    counted = []
    for step in (0, 0, 0, 4, 4, 5, 5, 5):
        claim(conn)
        counted.append(claims.count_death(conn, job.id, "worker", step=step).attempts)
        claims.release_job(conn, job.id, "worker")
    assert counted == [1, 2, 3, 1, 2, 1, 2, 3]


def test_a_released_or_paused_job_has_not_used_up_an_attempt(
    conn: Connection, tenant: Tenant, make_job: MakeJob
) -> None:
    job = make_job(conn)
    claim(conn)
    assert claims.release_job(conn, job.id, "worker").attempts == 0
    claim(conn)
    assert claims.pause_job(conn, job.id, "worker", now=NOW).attempts == 0
    assert jobs.resume_job(conn, job.id, tenant.project_id, NOW).status is JobStatus.QUEUED


def test_the_end_of_a_job_holds_everything_that_the_api_shows(conn: Connection, make_job: MakeJob) -> None:
    job = make_job(conn)
    claim(conn)
    claims.finish_succeeded(
        conn, job.id, "worker", fine_tuned_model="ft:x", result_files=("file-r",), trained_tokens=99, now=NOW + 9.7
    )
    done = jobs.get_job(conn, job.id)
    assert done.is_terminal and done.lease_expires_at is None and done.estimated_finish is None
    assert (done.fine_tuned_model, done.result_files, done.trained_tokens) == ("ft:x", ("file-r",), 99)
    assert done.finished_at == NOW + 9


def test_a_failed_job_tells_why(conn: Connection, make_job: MakeJob) -> None:
    job = make_job(conn, status=JobStatus.VALIDATING_FILES)
    claims.claim_validating(conn, "worker", now=NOW, lease_s=LEASE_S)
    error = JobError("invalid_n_examples", "Training file has 7 example(s)", "training_file")
    assert claims.reject_job(conn, job.id, "worker", error=error, now=NOW).error == error
    assert jobs.get_job(conn, job.id).status is JobStatus.FAILED


@pytest.mark.parametrize("round", range(4))
def test_cancel_and_success_at_once_leave_one_of_the_two(
    database: Engine, tenant: Tenant, make_job: MakeJob, round: int
) -> None:
    with write(database) as conn:
        job = make_job(conn)
        claim(conn)

    def cancel() -> JobStatus:
        with write(database) as conn:
            return jobs.cancel_job(conn, job.id, tenant.project_id, NOW).status

    def succeed() -> JobStatus:
        with write(database) as conn:
            done = claims.finish_succeeded(
                conn, job.id, "worker", fine_tuned_model="ft:x", result_files=(), trained_tokens=1, now=NOW
            )
            return done.status

    cancelled, succeeded = at_once([cancel, succeed])
    with read(database) as conn:
        final = jobs.get_job(conn, job.id)
    assert {type(cancelled), type(succeeded)} == {JobStatus, InvalidTransition}
    assert final.status in (cancelled, succeeded)


@pytest.mark.parametrize("round", range(4))
def test_cancel_and_claim_at_once_never_lose_the_cancel(
    database: Engine, tenant: Tenant, make_job: MakeJob, round: int
) -> None:
    with write(database) as conn:
        job = make_job(conn)

    def cancel() -> FineTuningJob:
        with write(database) as conn:
            return jobs.cancel_job(conn, job.id, tenant.project_id, NOW)

    def take() -> FineTuningJob | None:
        with write(database) as conn:
            return claim(conn)

    at_once([cancel, take])
    with read(database) as conn:
        final = jobs.get_job(conn, job.id)
    assert final.status is JobStatus.CANCELLED


def test_two_reapers_requeue_a_job_once(database: Engine, tenant: Tenant, make_job: MakeJob) -> None:
    with write(database) as conn:
        make_job(conn)
        claim(conn)

    def reap() -> int:
        with write(database) as conn:
            return len(claims.requeue_stalled(conn, now=NOW + LEASE_S + 1))

    assert sorted(at_once([reap, reap])) == [0, 1]
