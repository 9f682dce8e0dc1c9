"""What the dashboard asks of a session and of jobs. Reads what others wrote; changes nothing but owners' words."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Query, Request
from sqlalchemy import Connection

from tunery.api.access import JobsReader, JobsWriter, ModelsReader, ModelsUser
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.fine_tuning.routes import kept_checkpoints
from tunery.api.fine_tuning.schemas import CheckpointOut, wire_event, wire_job
from tunery.api.paging import After, Limit
from tunery.api.routing import Router
from tunery.api.tunery.console import scoring
from tunery.api.tunery.console.schemas import (
    Curves,
    FileRef,
    JobDetail,
    JobList,
    JobSummary,
    JobView,
    JobWords,
    ProjectRef,
    ScoreOut,
    ScoreRequest,
    SessionOut,
)
from tunery.domain.errors import InvalidRequest
from tunery.domain.job_details import JobDetails
from tunery.domain.jobs import IMPROVE_OF, IMPROVE_PART, OBEYED, FineTuningJob, JobStatus
from tunery.domain.tenants import Caller, Project, Scope, grants
from tunery.domain.usage import PICO
from tunery.jobs.requests import MAX_METADATA
from tunery.store import events as events_store
from tunery.store import files, jobs, tenants, versions
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(prefix="/tunery/v1", tags=["Console"])

PROJECTS = 1_000  # in one look; all are listed
MAX_CHECKPOINTS = 100  # one an epoch, of which a job has 50 at most

Points = Annotated[int, Query(ge=10, le=2000)]


@router.get("/session")
def get_session(caller: ModelsReader, context: ContextDep) -> SessionOut:
    """Whose key this is and what it may do."""
    with read(context.database) as conn:
        organization = tenants.get_organization(conn, caller.organization_id)
        reached = _reachable_projects(conn, caller)
    return SessionOut(
        organization_id=organization.id,
        organization=organization.name,
        project_id=caller.project_id,
        projects=[ProjectRef(id=project.id, name=project.name) for project in reached],
        role=caller.role.value,
        is_owner=caller.is_admin and grants(caller.scopes, Scope.MANAGEMENT_READ),
    )


def _reachable_projects(conn: Connection, caller: Caller) -> list[Project]:
    """An admin key may name any project of its organisation; every other key knows its own."""
    if not caller.is_admin:
        return [tenants.get_project(conn, caller.project_id, caller.organization_id)]
    found: list[Project] = []
    has_more = True
    while has_more:
        after = found[-1].id if found else None
        page = tenants.list_projects(conn, caller.organization_id, after=after, limit=PROJECTS)
        found, has_more = [*found, *page.items], page.has_more
    return found


# ---- jobs
@router.get("/jobs")
def search_jobs(
    caller: JobsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    status: JobStatus | None = None,
    search: Annotated[
        str,
        Query(
            max_length=600,
            description="Text in the id, names, notes, tags, suffix, models or training file; as `key=value` also a "
            "pair of the metadata.",
        ),
    ] = "",
) -> JobList:
    """Jobs with progress and cost, newest first."""
    statuses = (status,) if status else ()
    with read(context.database) as conn:
        page = jobs.list_jobs(conn, caller.project_id, text=search, statuses=statuses, after=after, limit=limit)
    return JobList(data=[_summary(context, job) for job in page.items], has_more=page.has_more)


@router.get("/jobs/{job_id}")
def get_job(job_id: str, caller: JobsReader, context: ContextDep) -> JobDetail:
    with read(context.database) as conn:
        return _detail(context, jobs.get_job(conn, job_id, caller.project_id))


@router.post("/jobs/{job_id}")
def describe_job(job_id: str, body: JobWords, caller: JobsWriter, context: ContextDep) -> JobDetail:
    """Its owner's words for a job, whatever its state; models that it makes afterwards begin with its display name."""
    with write(context.database) as conn:
        words = body.model_dump(include=body.model_fields_set)
        if "metadata" in words:
            before = jobs.get_job(conn, job_id, caller.project_id).metadata
            words["metadata"] = _with_what_is_obeyed(before or {}, body.metadata or {})
        job = jobs.describe_job(conn, job_id, caller.project_id, **words)
        record(conn, caller, "fine_tuning.job.renamed", now=context.clock(), resource_id=job_id, changed=words)
    return _detail(context, job)


def _with_what_is_obeyed(before: dict[str, str], wanted: dict[str, str]) -> dict[str, str] | None:
    """Raises InvalidRequest where the client would change what the server acts on, or has acted on."""
    for name in wanted.keys() & OBEYED:
        if wanted[name] != before.get(name):
            param = f"metadata.{name}"
            raise InvalidRequest(say("error.metadata_obeyed", name=name), param=param, code="invalid_value")
    made = {name: value for name, value in before.items() if name in OBEYED} | wanted
    if len(made) > MAX_METADATA:
        problem = say("error.too_many_properties", param="metadata", bound=MAX_METADATA, size=len(made))
        raise InvalidRequest(problem, param="metadata", code="object_above_max_properties")
    return made or None


@router.get("/jobs/{job_id}/view")
def get_view(
    job_id: str,
    caller: JobsReader,
    context: ContextDep,
    points: Points = 500,
    events: Annotated[int, Query(ge=1, le=1000, description="Events at most.")] = 100,
) -> JobView:
    """State, curves, events, checkpoints and files in one answer."""
    with read(context.database) as conn:
        job = jobs.get_job(conn, job_id, caller.project_id)
        told = events_store.list_events(conn, job_id, limit=events)
        saved = kept_checkpoints(conn, job, limit=MAX_CHECKPOINTS)
        named = {
            file_id: file_ref(conn, job, file_id) for file_id in (job.training_file, job.validation_file) if file_id
        }
        curves = _curves(conn, job_id, points)
    return JobView(
        detail=_detail(context, job),
        job=wire_job(job, context.settings),
        curves=curves,
        events=[wire_event(event) for event in told.items],
        checkpoints=[CheckpointOut.of(checkpoint) for checkpoint in saved.items],
        files=named,
    )


@router.get("/jobs/{job_id}/curves")
def get_curves(job_id: str, caller: JobsReader, context: ContextDep, points: Points = 500) -> Curves:
    """Loss and accuracy over the steps, thinned to about `points` points a curve."""
    with read(context.database) as conn:
        jobs.get_job(conn, job_id, caller.project_id)
        return _curves(conn, job_id, points)


def _curves(conn: Connection, job_id: str, points: int) -> Curves:
    rows = events_store.list_metrics(conn, job_id, max_points=points)
    names = Curves.model_fields
    return Curves(**{name: [(row["step"], row[name]) for row in rows if row.get(name) is not None] for name in names})


def _summary(context: Context, job: FineTuningJob) -> JobSummary:
    base = context.catalog.find(job.base_model)
    # Those it was trained on; before that, those that its base has now.
    source = job.details.source or (base.source if base else job.base_model)
    more = {
        "elapsed_s": job.elapsed_s(context.clock()),
        "pausing": job.is_pausing,
        "resumable": job.can_be_resumed,
        "weights": context.catalog.weights_of(source),
        "loss": _loss(job.details),
        "cost": training_cost(context, job),
        "currency": context.prices.currency,
    }
    return JobSummary.of({**vars(job), **more})


def _loss(details: JobDetails) -> float | None:
    measured = details.metrics or (details.checkpoints[-1].metrics if details.checkpoints else {})
    return measured.get("full_valid_loss", measured.get("train_loss"))


def file_ref(conn: Connection, job: FineTuningJob, file_id: str) -> FileRef:
    """One that the job has read, which may be no more."""
    file = files.find_file(conn, file_id, job.project_id)
    if file is None:
        sha256 = job.details.training_sha256 if file_id == job.training_file else None
        return FileRef(id=file_id, filename=None, version=None, sha256=sha256)
    number = versions.version_of(conn, file).number
    return FileRef(id=file_id, filename=file.filename, version=number, sha256=file.sha256)


def training_cost(context: Context, job: FineTuningJob) -> float | None:
    """At the price of the day it ended. Null unless it has succeeded: nothing else is charged."""
    if job.status is not JobStatus.SUCCEEDED or job.trained_tokens is None:
        return None
    price = context.prices.training_price(job.base_model, job.finished_at or context.clock())
    return job.trained_tokens * price / PICO


def _detail(context: Context, job: FineTuningJob) -> JobDetail:
    request = recipe(job)
    return JobDetail(
        **_summary(context, job).model_dump(),
        hyperparameters=request["method"][job.method]["hyperparameters"],
        reasons=job.details.hyperparameter_reasons,
        details=job.details.to_json(),
        notes=job.notes,
        sample_prompts=job.sample_prompts,
        request=request,
        texts=job.details.texts | ({"error": job.error.text} if job.error and job.error.text else {}),
    )


def recipe(job: FineTuningJob) -> dict[str, Any]:
    """The body that creates this job again."""
    chosen = {
        name: value for name, value in asdict(job.hyperparameters).items() if name != "beta" or job.method == "dpo"
    }
    body: dict[str, Any] = {"model": job.model, "training_file": job.training_file}
    if job.validation_file:
        body["validation_file"] = job.validation_file
    if job.suffix:
        body["suffix"] = job.suffix
    if given := {name: value for name, value in (job.metadata or {}).items() if name not in (IMPROVE_OF, IMPROVE_PART)}:
        body["metadata"] = given
    if job.sample_prompts:
        body["sample_prompts"] = job.sample_prompts
    if job.integrations:
        body["integrations"] = [_without_run(entry) for entry in job.integrations]
    body["seed"] = job.seed
    body["method"] = {"type": job.method, job.method: {"hyperparameters": chosen}}
    return body


def _without_run(integration: dict[str, Any]) -> dict[str, Any]:
    """As it was asked for: the run's id is the job's own."""
    kind = integration["type"]
    return {**integration, kind: {name: value for name, value in integration[kind].items() if name != "run_id"}}


@router.post("/scores")
@takes_up_to(MAX_PROMPT_BYTES)
async def create_score(request: Request, body: ScoreRequest, caller: ModelsUser, context: ContextDep) -> ScoreOut:
    """How likely a model finds the last message; nothing is generated."""
    return await scoring.score(context, caller, request.state.request_id, body)
