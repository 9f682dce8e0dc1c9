from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

from fastapi import Query, Request

from tunery.api.access import JobsReader, JobsWriter, ModelsReader, ModelsUser, ModelsWriter
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.fine_tuning import service as fine_tuning
from tunery.api.fine_tuning.schemas import wire_checkpoint, wire_event, wire_job
from tunery.api.paging import After, Limit
from tunery.api.routing import Router
from tunery.api.tunery.console import scoring, service
from tunery.api.tunery.console.schemas import (
    CatalogEntry,
    CatalogOut,
    Curves,
    DisplayName,
    JobDetail,
    JobList,
    JobSummary,
    JobView,
    LearnedFile,
    ModelName,
    ScoreOut,
    ScoreRequest,
    SessionOut,
    Weights,
)
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.domain.models import Alias, FineTunedModel
from tunery.domain.names import parse_name
from tunery.domain.tenants import Caller
from tunery.models.catalog import CatalogModel

router = Router(prefix="/tunery/v1", tags=["Console"])

MAX_CHECKPOINTS = 100  # one an epoch, of which a job has 50 at most


@router.get("/session")
def get_session(caller: ModelsReader, context: ContextDep) -> SessionOut:
    """Whose key this is and what it may do."""
    return service.session(context, caller)


@router.get("/jobs")
def search_jobs(
    caller: JobsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    status: JobStatus | None = None,
    search: Annotated[
        str, Query(max_length=200, description="Text in the id, names, suffix, models or training file.")
    ] = "",
) -> JobList:
    """Jobs with progress and cost, newest first."""
    page = service.search_jobs(context, caller, text=search, status=status, after=after, limit=limit)
    return JobList(data=[_summary(context, job) for job in page.items], has_more=page.has_more)


@router.get("/jobs/{job_id}")
def get_job(job_id: str, caller: JobsReader, context: ContextDep) -> JobDetail:
    return _detail(context, service.job(context, caller, job_id))


@router.post("/jobs/{job_id}")
def name_job(job_id: str, body: DisplayName, caller: JobsWriter, context: ContextDep) -> JobDetail:
    """Give a job a display name, whatever its state; models that it makes afterwards begin with it."""
    return _detail(context, service.name_job(context, caller, job_id, body.display_name))


@router.post("/models/{model:path}")
def name_model(model: str, body: DisplayName, caller: ModelsWriter, context: ContextDep) -> CatalogEntry:
    """Give a model a display name. Its name, which requests use, stays as it is."""
    named = service.name_model(context, caller, model, body.display_name)
    return _own_entry(context, named, service.learned_files(context, caller, [named])[named.name])


@router.get("/model_name")
def preview_model_name(
    caller: JobsReader,
    context: ContextDep,
    model: Annotated[str, Query(min_length=1, max_length=256, description="What the job will be created on.")],
    suffix: Annotated[str | None, Query(max_length=1000)] = None,
) -> ModelName:
    """The name that a job's model will have, before the job is created."""
    return service.model_name(context, caller, model, suffix or None)


def _detail(context: Context, job: FineTuningJob) -> JobDetail:
    request = service.recipe(job)
    return JobDetail(
        **_summary(context, job).model_dump(),
        hyperparameters=request["method"][job.method]["hyperparameters"],
        reasons=job.details.hyperparameter_reasons,
        details=job.details.to_json(),
        request=request,
        texts=job.details.texts | ({"error": job.error.text} if job.error and job.error.text else {}),
    )


@router.get("/jobs/{job_id}/view")
def get_view(
    job_id: str,
    caller: JobsReader,
    context: ContextDep,
    points: Annotated[int, Query(ge=10, le=2000)] = 500,
    events: Annotated[int, Query(ge=1, le=1000, description="Events at most.")] = 100,
) -> JobView:
    """State, curves, events, checkpoints and file names in one answer."""
    job = service.job(context, caller, job_id)
    told = fine_tuning.list_events(context, caller, job_id, after=None, limit=events)
    saved = fine_tuning.list_checkpoints(context, caller, job_id, after=None, limit=MAX_CHECKPOINTS)
    return JobView(
        detail=_detail(context, job),
        job=wire_job(job, context.settings),
        curves=service.curves(context, caller, job_id, points),
        events=[wire_event(event) for event in told.items],
        checkpoints=[wire_checkpoint(checkpoint) for checkpoint in saved.items],
        files=service.file_names(context, caller, [job.training_file, job.validation_file]),
    )


@router.get("/jobs/{job_id}/curves")
def get_curves(
    job_id: str, caller: JobsReader, context: ContextDep, points: Annotated[int, Query(ge=10, le=2000)] = 500
) -> Curves:
    """Loss and accuracy over the steps, thinned to about `points` points a curve."""
    return service.curves(context, caller, job_id, points)


@router.get("/catalog")
def get_catalog(
    caller: ModelsReader,
    context: ContextDep,
    search: Annotated[str, Query(max_length=200, description="Text in the name, the display name or an alias.")] = "",
    limit: Annotated[int, Query(ge=1, le=service.MAX_MODELS, description="Fine-tuned models at most.")] = (
        service.MAX_MODELS
    ),
) -> CatalogOut:
    """Every model this project may use, with limits, prices and weights; fine-tuned ones first, newest first."""
    wanted, aliases = search.casefold(), service.aliases(context, caller)
    called = [alias.target for alias in aliases if wanted in alias.name.casefold()]
    own, has_more = service.models(context, caller, search, limit, also=called)
    learned = service.learned_files(context, caller, own)
    tuned = [_own_entry(context, model, learned[model.name]) for model in own]
    bases = [_base_entry(context, base) for base in context.catalog if base.serving or base.training]
    for entry in tuned + bases:
        _rename(context, caller, entry, aliases)
    found = [base for base in _compared(bases) if any(wanted in name.casefold() for name in (base.name, *base.aliases))]
    return CatalogOut(data=tuned + found, has_more=has_more)


@router.post("/scores")
@takes_up_to(MAX_PROMPT_BYTES)
async def create_score(request: Request, body: ScoreRequest, caller: ModelsUser, context: ContextDep) -> ScoreOut:
    """How likely a model finds the last message; nothing is generated."""
    return await scoring.score(context, caller, request.state.request_id, body)


def _summary(context: Context, job: FineTuningJob) -> JobSummary:
    return JobSummary(
        id=job.id,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        elapsed_s=job.elapsed_s(context.clock()),
        estimated_finish=job.estimated_finish,
        status=job.status.value,
        pausing=job.is_pausing,
        resumable=job.can_be_resumed,
        display_name=job.display_name,
        model=job.model,
        weights=service.weights_of(context, job),
        fine_tuned_model=job.fine_tuned_model,
        suffix=job.suffix,
        method=job.method,
        step=job.step,
        total_steps=job.total_steps,
        trained_tokens=job.trained_tokens,
        cost=service.job_cost(context, job),
        currency=context.prices.currency,
    )


def _rename(context: Context, caller: Caller, entry: CatalogEntry, aliases: Sequence[Alias]) -> None:
    """By the project's own names, which come before all others: they may add to a model's names, or take one away."""
    taken = {alias.name for alias in aliases}
    names = (entry.name, *entry.aliases)
    kept = [name for name in entry.aliases if name not in taken]
    entry.aliases = kept + [alias.name for alias in aliases if alias.target in names]
    if entry.name in taken:
        entry.answered_by, learned = service.answering(context, caller, entry.name)
        entry.learned_from += learned


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
        price=service.price_of(context, model.name, model.base_model),
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
        kind="base",
        base=base.name,
        training=base.training,
        context_length=base.context_length,
        max_example_tokens=base.max_example_tokens,
        price=service.price_of(context, base.name, base.name),
        weights=Weights(name=context.catalog.weights_of(base.source), source=base.source, adapter=None),
        answered_by=None,
        same_weights=[],
        learned_from=[],
        display_name=None,
        job_id=None,
        step_number=None,
        created_at=None,
    )
