"""Every verb on a job in every state: the table in domain.jobs against the database."""

from collections.abc import Callable

import pytest
from sqlalchemy import Connection

from tests.store.conftest import NOW, MakeJob, Tenant
from tunery.domain.errors import InvalidTransition, NotFound
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import ALLOWED, FineTuningJob, JobError, JobStatus
from tunery.store import claims, jobs

S = JobStatus
Verb = Callable[[Connection, str, str], FineTuningJob]
ERROR = JobError("server_error", "broken")
NUMBERS = Hyperparameters(1, 1, 1.0, 0.1)

# verb: what it does, and where it leads from each state that allows it
VERBS: dict[str, tuple[Verb, dict[JobStatus, JobStatus]]] = {
    "cancel": (
        lambda conn, job, project: jobs.cancel_job(conn, job, project, NOW),
        {S.VALIDATING_FILES: S.CANCELLED, S.QUEUED: S.CANCELLED, S.PAUSED: S.CANCELLED, S.RUNNING: S.CANCELLED},
    ),
    "pause": (
        lambda conn, job, project: jobs.pause_job(conn, job, project, NOW),
        {S.VALIDATING_FILES: S.PAUSED, S.QUEUED: S.PAUSED, S.RUNNING: S.RUNNING},
    ),
    "resume": (
        lambda conn, job, project: jobs.resume_job(conn, job, project, NOW),
        {S.PAUSED: S.VALIDATING_FILES},
    ),
    "accept": (lambda conn, job, _: claims.accept_job(conn, job, "worker"), {S.VALIDATING_FILES: S.QUEUED}),
    "reject": (
        lambda conn, job, _: claims.reject_job(conn, job, "worker", error=ERROR, now=NOW),
        {S.VALIDATING_FILES: S.FAILED},
    ),
    "start": (
        lambda conn, job, _: claims.start_job(conn, job, "worker", hyperparameters=NUMBERS, total_steps=3),
        {S.RUNNING: S.RUNNING},
    ),
    "succeed": (
        lambda conn, job, _: claims.finish_succeeded(
            conn, job, "worker", fine_tuned_model="ft:x", result_files=(), trained_tokens=1, now=NOW
        ),
        {S.RUNNING: S.SUCCEEDED},
    ),
    "fail": (
        lambda conn, job, _: claims.fail_job(conn, job, "worker", error=ERROR, now=NOW),
        {S.RUNNING: S.FAILED},
    ),
    "pause by worker": (lambda conn, job, _: claims.pause_job(conn, job, "worker", now=NOW), {S.RUNNING: S.PAUSED}),
    "release": (
        lambda conn, job, _: claims.release_job(conn, job, "worker"),
        {S.RUNNING: S.QUEUED, S.VALIDATING_FILES: S.VALIDATING_FILES},
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_works_from_the_states_that_allow_it_and_from_no_other(
    conn: Connection, tenant: Tenant, make_job: MakeJob, verb: str
) -> None:
    act, allowed = VERBS[verb]
    for status in JobStatus:
        job = make_job(conn, status=status, worker_id="worker", lease_expires_at=NOW + 9)
        if status in allowed:
            assert act(conn, job.id, tenant.project_id).status is allowed[status]
            assert allowed[status] in ALLOWED[status] | {status}
        else:
            with pytest.raises(InvalidTransition, match=f"is {status}"):
                act(conn, job.id, tenant.project_id)
            assert jobs.get_job(conn, job.id).status is status


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_another_projects_job_does_not_exist(conn: Connection, tenant: Tenant, make_job: MakeJob, verb: str) -> None:
    job = make_job(conn, status=S.PAUSED if verb == "resume" else S.QUEUED)
    with pytest.raises(NotFound):
        VERBS[verb][0](conn, job.id, tenant.other_project_id)
    assert jobs.get_job(conn, job.id).status is job.status


def test_a_job_paused_before_its_files_were_checked_is_checked_after_all(
    conn: Connection, tenant: Tenant, make_job: MakeJob
) -> None:
    job = make_job(conn, status=S.VALIDATING_FILES)
    jobs.pause_job(conn, job.id, tenant.project_id, NOW)
    assert jobs.resume_job(conn, job.id, tenant.project_id, NOW).status is S.VALIDATING_FILES


def test_a_job_paused_in_the_queue_returns_to_it(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    job = make_job(conn, status=S.QUEUED)
    jobs.pause_job(conn, job.id, tenant.project_id, NOW)
    assert jobs.resume_job(conn, job.id, tenant.project_id, NOW).status is S.QUEUED


def test_cancelling_a_running_job_takes_it_away_from_its_worker_at_once(
    conn: Connection, tenant: Tenant, make_job: MakeJob
) -> None:
    job = make_job(conn, status=S.RUNNING, worker_id="worker", lease_expires_at=NOW + 9)
    cancelled = jobs.cancel_job(conn, job.id, tenant.project_id, NOW)
    assert (cancelled.status, cancelled.finished_at) == (S.CANCELLED, NOW)
    assert claims.heartbeat(conn, job.id, "worker", now=NOW, lease_s=9) is None
    for act in ("succeed", "fail", "pause by worker", "release", "start"):
        with pytest.raises(InvalidTransition):
            VERBS[act][0](conn, job.id, tenant.project_id)


@pytest.mark.parametrize("resumable", [True, False])
def test_a_failed_job_is_resumed_where_its_state_was_kept_and_nowhere_else(
    conn: Connection, tenant: Tenant, make_job: MakeJob, resumable: bool
) -> None:
    job = make_job(conn, status=S.QUEUED)
    claims.claim_next_job(conn, "worker", now=NOW, lease_s=9)
    claims.count_death(conn, job.id, "worker", step=3)
    claims.fail_job(conn, job.id, "worker", error=ERROR, now=NOW + 10, resumable=resumable)
    if not resumable:
        with pytest.raises(InvalidTransition, match="cannot be resumed"):
            jobs.resume_job(conn, job.id, tenant.project_id, NOW + 70)
        return
    again = jobs.resume_job(conn, job.id, tenant.project_id, NOW + 70)
    assert (again.status, again.error, again.finished_at) == (S.QUEUED, None, None)
    assert (again.attempts, again.died_at_step, again.can_be_resumed) == (0, None, False)
    assert again.elapsed_s(NOW + 75) == 15  # the minute between failure and resume does not count


def test_a_state_that_was_kept_long_enough_is_forgotten(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    job = make_job(conn, status=S.FAILED, resumable=True, finished_at=NOW)
    jobs.forget_states(conn, failed_before=NOW)
    assert jobs.get_job(conn, job.id).can_be_resumed
    jobs.forget_states(conn, failed_before=NOW + 1)
    with pytest.raises(InvalidTransition):
        jobs.resume_job(conn, job.id, tenant.project_id, NOW)


@pytest.mark.parametrize("status", [S.QUEUED, S.RUNNING])
def test_a_paused_jobs_clock_stops(conn: Connection, tenant: Tenant, make_job: MakeJob, status: S) -> None:
    job = make_job(conn, status=status, worker_id="worker", lease_expires_at=NOW + 9, started_at=NOW)
    jobs.pause_job(conn, job.id, tenant.project_id, NOW + 10)
    if status is S.RUNNING:
        claims.pause_job(conn, job.id, "worker", now=NOW + 10)
    assert jobs.get_job(conn, job.id).elapsed_s(NOW + 500) == 10
    jobs.resume_job(conn, job.id, tenant.project_id, NOW + 100)
    assert jobs.get_job(conn, job.id).elapsed_s(NOW + 105) == 15
    jobs.pause_job(conn, job.id, tenant.project_id, NOW + 105)
    done = jobs.cancel_job(conn, job.id, tenant.project_id, NOW + 200)
    assert done.elapsed_s(NOW + 900) == 15


def test_cancelling_a_waiting_job_ends_it_now(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    job = make_job(conn, status=S.QUEUED)
    assert jobs.cancel_job(conn, job.id, tenant.project_id, NOW + 5.5).finished_at == NOW + 5
