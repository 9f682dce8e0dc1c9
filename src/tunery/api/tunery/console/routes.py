"""What the dashboard asks of jobs and models. Reads what others wrote; changes nothing but their owner's words for them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import Query, Request
from sqlalchemy import Connection

from tunery.api.access import JobsReader, JobsWriter, ModelsReader, ModelsUser, ModelsWriter
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.fine_tuning.routes import kept_checkpoints
from tunery.api.fine_tuning.schemas import CheckpointOut, wire_event, wire_job
from tunery.api.paging import After, Limit
from tunery.api.routing import Router
from tunery.api.tunery.console import scoring
from tunery.api.tunery.console.schemas import (
    CatalogEntry,
    CatalogOut,
    Curves,
    JobDetail,
    JobList,
    JobSummary,
    JobView,
    JobWords,
    LearnedFile,
    ModelName,
    ModelWords,
    PriceOut,
    ProjectRef,
    ScoreOut,
    ScoreRequest,
    SessionOut,
    Weights,
)
from tunery.domain.errors import InvalidRequest, NotFound
from tunery.domain.jobs import IMPROVE_OF, IMPROVE_PART, OBEYED, FineTuningJob, JobStatus
from tunery.domain.models import Alias, FineTunedModel
from tunery.domain.names import check_suffix, new_name, parse_name
from tunery.domain.tenants import Caller, Project, Scope, grants
from tunery.domain.usage import MICRO, PICO
from tunery.engines.pool import resolve
from tunery.jobs.requests import MAX_METADATA
from tunery.jobs.verbs import trainable
from tunery.models.catalog import CatalogModel
from tunery.store import events as events_store
from tunery.store import files, jobs, models, tenants
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(prefix="/tunery/v1", tags=["Console"])

PROJECTS = 1_000  # in one look; all are listed
MAX_MODELS = 1_000
MAX_CHECKPOINTS = 100  # one an epoch, of which a job has 50 at most
NOTHING = "–"  # under a name whose model was deleted

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
            description="Text in the id, names, notes, tags, suffix, models or training file, or a pair of the metadata "
            "as `key=value`.",
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
    """State, curves, events, checkpoints and file names in one answer."""
    with read(context.database) as conn:
        job = jobs.get_job(conn, job_id, caller.project_id)
        told = events_store.list_events(conn, job_id, limit=events)
        saved = kept_checkpoints(conn, job, limit=MAX_CHECKPOINTS)
        found = {
            file_id: files.find_file(conn, file_id, caller.project_id)
            for file_id in (job.training_file, job.validation_file)
            if file_id
        }
        curves = _curves(conn, job_id, points)
    return JobView(
        detail=_detail(context, job),
        job=wire_job(job, context.settings),
        curves=curves,
        events=[wire_event(event) for event in told.items],
        checkpoints=[CheckpointOut.of(checkpoint) for checkpoint in saved.items],
        files={file_id: file.filename if file else None for file_id, file in found.items()},
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
        "cost": _cost(context, job),
        "currency": context.prices.currency,
    }
    return JobSummary.of({**vars(job), **more})


def _cost(context: Context, job: FineTuningJob) -> float | None:
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


# ---- models
@router.post("/models/{model:path}")
def name_model(model: str, body: ModelWords, caller: ModelsWriter, context: ContextDep) -> CatalogEntry:
    """Give a model a display name. Its name, which requests use, stays as it is."""
    with write(context.database) as conn:
        named = models.set_display_name(conn, model, caller.project_id, body.display_name)
        learned = _learned_files(conn, caller.project_id, [named])
        changed = {"display_name": named.display_name}
        record(conn, caller, "model.renamed", now=context.clock(), resource_id=model, changed=changed)
    return _own_entry(context, named, learned[named.name])


@router.get("/model_name")
def preview_model_name(
    caller: JobsReader,
    context: ContextDep,
    model: Annotated[str, Query(min_length=1, max_length=256, description="What the job will be created on.")],
    suffix: Annotated[str | None, Query(max_length=1000)] = None,
) -> ModelName:
    """The name that a job's model will have, before the job is created."""
    with read(context.database) as conn:
        _, base = trainable(conn, model, caller.project_id, context.catalog)
        organization = tenants.get_organization(conn, caller.organization_id)
    if suffix:
        check_suffix(suffix)
    named = new_name(base=base, organization=organization.slug, suffix=suffix or None)
    return ModelName(name=str(replace(named, id="…")), suffix=named.suffix)


@router.get("/catalog")
def get_catalog(
    caller: ModelsReader,
    context: ContextDep,
    search: Annotated[str, Query(max_length=200, description="Text in the name, the display name or an alias.")] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_MODELS, description="Fine-tuned models at most.")] = MAX_MODELS,
) -> CatalogOut:
    """Every model this project may use, with limits, prices and weights; fine-tuned ones first, newest first."""
    wanted = search.casefold()
    with read(context.database) as conn:
        aliases = models.list_aliases(conn, caller.project_id)
        called = [alias.target for alias in aliases if wanted in alias.name.casefold()]
        own = models.list_models(conn, caller.project_id, text=search, also=called, limit=limit + 1)
        learned = _learned_files(conn, caller.project_id, own[:limit])
        tuned = [_own_entry(context, model, learned[model.name]) for model in own[:limit]]
        bases = [_base_entry(context, base) for base in context.catalog if base.serving or base.training]
        for entry in tuned + bases:
            _rename(conn, context, caller.project_id, entry, aliases)
    found = [base for base in _compared(bases) if any(wanted in name.casefold() for name in (base.name, *base.aliases))]
    return CatalogOut(data=tuned + found, has_more=len(own) > limit)


def _rename(conn: Connection, context: Context, project_id: str, entry: CatalogEntry, aliases: Sequence[Alias]) -> None:
    """By the project's own names, which come before all others: they may add to a model's names, or take one away."""
    taken = {alias.name for alias in aliases}
    names = (entry.name, *entry.aliases)
    kept = [name for name in entry.aliases if name not in taken]
    entry.aliases = kept + [alias.name for alias in aliases if alias.target in names]
    if entry.name in taken:
        entry.answered_by, learned = _answering(conn, context, project_id, entry.name)
        entry.learned_from += learned


def _answering(conn: Connection, context: Context, project_id: str, alias: str) -> tuple[Weights, list[LearnedFile]]:
    """What stands under a name of the project's own, and what it was trained on."""
    try:
        found = resolve(conn, context.catalog, alias, project_id)
    except NotFound:
        return Weights(name=NOTHING, source="", adapter=None), []
    if found.upstream is not None:
        return Weights(name=f"{found.source}{found.upstream}", source=found.source, adapter=None), []
    weights = Weights(name=context.catalog.weights_of(found.source), source=found.source, adapter=None)
    if found.adapter is None:
        return weights, []
    weights.adapter = found.adapter.id
    return weights, _learned_files(conn, project_id, [found.adapter])[found.adapter.name]


def _learned_files(conn: Connection, project_id: str, found: Sequence[FineTunedModel]) -> dict[str, list[LearnedFile]]:
    """By model name: what each was trained on, and what the models were that it goes on from."""
    made_by = jobs.training_files(conn, [model.job_id for model in found if model.job_id])
    known = {model.name: model.job_id for model in found}
    while missing := {job.model for job in made_by.values() if job.model.startswith("ft:")} - known.keys():
        before = jobs.makers(conn, missing)
        known |= before
        made_by |= jobs.training_files(conn, [job_id for job_id in before.values() if job_id])

    def files_of(name: str) -> list[LearnedFile]:
        learned: list[LearnedFile] = []
        while (job := made_by.get(known.get(name) or "")) is not None:
            own = job.project_id == project_id
            learned.append(LearnedFile(id=job.training_file if own else None, sha256=job.sha256))
            learned += [LearnedFile(id=None, sha256=sha256) for sha256 in job.split_from]
            name = job.model
        return learned

    return {model.name: files_of(model.name) for model in found}


def _compared(bases: list[CatalogEntry]) -> list[CatalogEntry]:
    """With which of them are the same weights under other names. Every fine-tuned model has its own."""
    alike: defaultdict[tuple[str, str | None], list[str]] = defaultdict(list)
    for entry in bases:
        answering = entry.answered_by or entry.weights
        alike[answering.source, answering.adapter].append(entry.name)
    for entry in bases:
        answering = entry.answered_by or entry.weights
        entry.same_weights = [name for name in alike[answering.source, answering.adapter] if name != entry.name]
    return bases


def _own_entry(context: Context, model: FineTunedModel, learned: list[LearnedFile]) -> CatalogEntry:
    base = context.catalog.find(model.base_model)
    name = parse_name(model.name)
    return CatalogEntry(
        name=model.name,
        aliases=[],
        kind="fine-tuned",
        base=model.base_model,
        training=base is not None and base.training,
        context_length=base.context_length if base else 0,
        max_example_tokens=base.max_example_tokens if base else 0,
        price=_price(context, model.name, model.base_model),
        weights=Weights(name=context.catalog.weights_of(model.source), source=model.source, adapter=model.id),
        answered_by=None,
        same_weights=[],
        learned_from=learned,
        display_name=model.display_name,
        job_id=model.job_id,
        step_number=name.step if name else None,
        created_at=model.created_at,
    )


def _base_entry(context: Context, base: CatalogModel) -> CatalogEntry:
    return CatalogEntry(
        name=base.name,
        aliases=list(base.aliases),
        kind="embedding" if base.embeds else "base",
        base=base.name,
        training=base.training,
        context_length=base.context_length,
        max_example_tokens=base.max_example_tokens,
        price=_price(context, base.name, base.name),
        weights=Weights(name=context.catalog.weights_of(base.source), source=base.source, adapter=None),
        answered_by=None,
        same_weights=[],
        learned_from=[],
        display_name=None,
        job_id=None,
        step_number=None,
        created_at=None,
    )


def _price(context: Context, model: str, base: str) -> PriceOut:
    """Plain numbers of the table's currency."""
    now = context.clock()
    price = context.prices.price_of(model, now)
    return PriceOut(
        training=context.prices.training_price(base, now) / MICRO,
        input=price.input / MICRO,
        cached_input=price.cached_input / MICRO,
        output=price.output / MICRO,
        currency=context.prices.currency,
    )


@router.post("/scores")
@takes_up_to(MAX_PROMPT_BYTES)
async def create_score(request: Request, body: ScoreRequest, caller: ModelsUser, context: ContextDep) -> ScoreOut:
    """How likely a model finds the last message; nothing is generated."""
    return await scoring.score(context, caller, request.state.request_id, body)
