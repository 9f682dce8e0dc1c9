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
        lambda conn, job, project: jobs.request_cancel(conn, job, project, NOW),
        {S.VALIDATING_FILES: S.CANCELLED, S.QUEUED: S.CANCELLED, S.PAUSED: S.CANCELLED, S.RUNNING: S.RUNNING},
    ),
    "pause": (
        lambda conn, job, project: jobs.request_pause(conn, job, project),
        {S.VALIDATING_FILES: S.PAUSED, S.QUEUED: S.PAUSED, S.RUNNING: S.RUNNING},
    ),
    "resume": (
        lambda conn, job, project: jobs.resume_job(conn, job, project),
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
        {S.RUNNING: S.FAILED, S.VALIDATING_FILES: S.FAILED},
    ),
    "finish cancelled": (
        lambda conn, job, _: claims.finish_cancelled(conn, job, "worker", now=NOW),
        {S.RUNNING: S.CANCELLED},
    ),
    "pause by worker": (lambda conn, job, _: claims.pause_job(conn, job, "worker"), {S.RUNNING: S.PAUSED}),
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
    jobs.request_pause(conn, job.id, tenant.project_id)
    assert jobs.resume_job(conn, job.id, tenant.project_id).status is S.VALIDATING_FILES


def test_a_job_paused_in_the_queue_returns_to_it(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    job = make_job(conn, status=S.QUEUED)
    jobs.request_pause(conn, job.id, tenant.project_id)
    assert jobs.resume_job(conn, job.id, tenant.project_id).status is S.QUEUED


def test_cancelling_a_running_job_sets_the_flag_and_leaves_the_lease(
    conn: Connection, tenant: Tenant, make_job: MakeJob
) -> None:
    job = make_job(conn, status=S.RUNNING, worker_id="worker", lease_expires_at=NOW + 9)
    cancelled = jobs.request_cancel(conn, job.id, tenant.project_id, NOW)
    assert cancelled.cancel_requested and cancelled.finished_at is None
    assert (cancelled.worker_id, cancelled.lease_expires_at) == ("worker", NOW + 9)


def test_cancelling_a_waiting_job_ends_it_now(conn: Connection, tenant: Tenant, make_job: MakeJob) -> None:
    job = make_job(conn, status=S.QUEUED)
    assert jobs.request_cancel(conn, job.id, tenant.project_id, NOW + 5.5).finished_at == NOW + 5
