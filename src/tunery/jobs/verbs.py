"""The verbs of a job that a caller may use: create, cancel, pause, resume. Everything slow is left to the worker."""

import hashlib
import json
import secrets
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from tunery.domain.clock import Clock, system_clock
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.files import File, FilePurpose
from tunery.domain.ids import new_id
from tunery.domain.job_details import JobDetails
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.domain.tenants import Caller
from tunery.jobs.endings import tell_cancellation, tell_pause
from tunery.jobs.evaluation import check_evaluation
from tunery.jobs.requests import MAX_SEED, JobRequest, check
from tunery.metering import limits
from tunery.metering.budget import check_budget
from tunery.metering.storage import check_not_full
from tunery.models.catalog import Catalog
from tunery.settings import Settings
from tunery.store import events, files, jobs, models, tenants
from tunery.texts import say


def create_job(
    conn: Connection,
    request: JobRequest,
    *,
    caller: Caller,
    catalog: Catalog,
    settings: Settings,
    clock: Clock = system_clock,
    idempotency_key: str | None = None,
) -> FineTuningJob:
    """A new job in `validating_files`, or the job that an earlier request with this idempotency key made.

    Decides only what needs no look into the files: their content is the worker's to check, so that the reply is quick.
    Raises InvalidRequest with OpenAI's param and code, RateLimited when the project may not have another job now.
    """
    request_hash = _hash(request) if idempotency_key else ""
    if idempotency_key and (earlier := _earlier_job(conn, request_hash, caller, idempotency_key)):
        return earlier
    now = clock()
    job = _new_job(conn, request, caller, catalog, settings, now)
    if idempotency_key:
        is_first = jobs.remember_job(
            conn, caller.project_id, idempotency_key, request_hash=request_hash, job_id=job.id, now=now
        )
        # Two requests may both have found nothing above: the second to get here takes the first one's job.
        if not is_first and (winner := _earlier_job(conn, request_hash, caller, idempotency_key)):
            return winner
    jobs.insert_job(conn, job)
    events.add_event(conn, job.id, say("event.created", job=job.id), now=now, data={})
    events.add_event(conn, job.id, _validating(job), now=now, data={})
    return job


def _new_job(
    conn: Connection, request: JobRequest, caller: Caller, catalog: Catalog, settings: Settings, now: float
) -> FineTuningJob:
    """What is asked for, after every check that needs neither the files' content nor a worker."""
    method = check(request)
    model, base_model = trainable(conn, request.model, caller.project_id, catalog)
    base = catalog.find(base_model)
    if request.sample_prompts and base is not None and base.completes:
        raise InvalidRequest(
            say("error.samples_need_chat", name=base_model), param="sample_prompts", code="unsupported_value"
        )
    training = _check_file(conn, request.training_file, caller.project_id, "training_file")
    if request.validation_file is not None:
        _check_file(conn, request.validation_file, caller.project_id, "validation_file")
    has_eval = check_evaluation(conn, request.metadata, request.validation_file, caller.project_id)
    _check_project(conn, caller.project_id, settings, model=model, now=now)
    job_id = new_id("job")
    return FineTuningJob(
        id=job_id,
        project_id=caller.project_id,
        organization_id=caller.organization_id,
        created_at=int(now),
        status=JobStatus.VALIDATING_FILES,
        model=model,
        base_model=base_model,
        training_file=request.training_file,
        validation_file=request.validation_file,
        method=method,
        hyperparameters=request.hyperparameters,
        seed=secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed,
        suffix=request.suffix,
        created_by=caller.user_id,
        metadata=request.metadata,
        integrations=_integrations(request, job_id, settings),
        sample_prompts=request.sample_prompts or None,
        details=JobDetails(
            training_sha256=training.sha256,
            training_split_from=list(training.split_from),
            eval_key_id=caller.key_id if has_eval else None,
        ),
    )


def _check_project(conn: Connection, project_id: str, settings: Settings, *, model: str, now: float) -> None:
    """Whether it may have another job now."""
    tenants.get_active_project(conn, project_id)
    own = limits.project_limits(conn, settings, project_id)
    check_not_full(conn, project_id, own, now=now)
    limits.check_new_job(conn, project_id, own, model=model, now=now)
    check_budget(conn, project_id, own, now=now)


def cancel_job(
    conn: Connection, job_id: str, project_id: str, *, by: str | None = None, clock: Clock = system_clock
) -> FineTuningJob:
    """At once, whatever a worker does with it, which ends within seconds. `by`: the user who cancels. Raises
    InvalidTransition when the job has ended."""
    now = clock()
    job = jobs.cancel_job(conn, job_id, project_id, now)
    tell_cancellation(conn, job, now=now, by=by)
    return job


def cancel_all(conn: Connection, project_id: str, *, clock: Clock = system_clock) -> None:
    """Every job of the project that has not ended: nobody could look at it any more."""
    for job_id in jobs.list_unfinished(conn, project_id):
        cancel_job(conn, job_id, project_id, clock=clock)


def pause_job(conn: Connection, job_id: str, project_id: str, *, clock: Clock = system_clock) -> FineTuningJob:
    """At once for a job that waits; a running one saves its state and pauses within seconds. Raises InvalidTransition
    when the job has ended or is paused."""
    now, before = clock(), jobs.get_job(conn, job_id, project_id)
    job = jobs.pause_job(conn, job_id, project_id, now)
    if job.status is JobStatus.PAUSED:
        tell_pause(conn, job, now=now)
    elif not before.pause_requested:
        events.add_event(conn, job_id, say("event.pausing"), now=now)
    return job


def resume_job(conn: Connection, job_id: str, project_id: str, *, clock: Clock = system_clock) -> FineTuningJob:
    """Back into the queue. Raises InvalidTransition when the job is neither paused nor failed with its state kept."""
    now = clock()
    job = jobs.resume_job(conn, job_id, project_id, now)
    events.add_event(conn, job_id, say("event.resumed"), now=now)
    return job


def _earlier_job(conn: Connection, request_hash: str, caller: Caller, key: str) -> FineTuningJob | None:
    """Raises InvalidRequest when the key came with another request before."""
    job_id = jobs.find_job_id(conn, caller.project_id, key, request_hash)
    return None if job_id is None else jobs.get_job(conn, job_id, caller.project_id)


def _hash(request: JobRequest) -> str:
    wanted = {name: value for name, value in asdict(request).items() if name != "is_flat"}
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def trainable(conn: Connection, name: str, project_id: str, catalog: Catalog) -> tuple[str, str]:
    """The model's full name and the base snapshot it stands on. A fine-tune or checkpoint of the project goes on
    from its weights. Raises InvalidRequest with OpenAI's code for any other name."""
    own = models.find_model(conn, name, project_id)
    if own is not None:
        return own.name, own.base_model
    base = catalog.find(name)
    if base is None or not base.training:
        raise InvalidRequest(say("error.model_not_trainable", name=name), code="model_not_available")
    return base.name, base.name


def _check_file(conn: Connection, file_id: str, project_id: str, param: str) -> File:
    try:
        file = files.get_file(conn, file_id, project_id)
    except NotFound as exc:
        raise InvalidRequest(say("error.invalid_file", param=param, file_id=file_id), param=param) from exc
    if file.purpose != FilePurpose.FINE_TUNE:
        raise InvalidRequest(
            say("error.wrong_purpose", param=param, file_id=file_id, purpose=file.purpose), param=param
        )
    return file


def _integrations(request: JobRequest, job_id: str, settings: Settings) -> list[dict[str, Any]] | None:
    """As asked for, with the run's id. A job that would run without its reports is refused, not run silently."""
    if not request.integrations:
        return request.integrations
    if settings.wandb_api_key is None:
        raise InvalidRequest(
            say("error.no_wandb_key"),
            param="integrations",
            code="wandb_key_missing",
        )
    return [{**entry, "wandb": {**entry["wandb"], "run_id": job_id}} for entry in request.integrations]


def _validating(job: FineTuningJob) -> str:
    if job.validation_file:
        return say("event.validating_both", training=job.training_file, validation=job.validation_file)
    return say("event.validating", training=job.training_file)
