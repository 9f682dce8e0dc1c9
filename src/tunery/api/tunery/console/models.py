"""Models as a project sees them: the catalog of all, one tuned model with what depends on it, and names before there
is a model."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import Query
from sqlalchemy import Connection

from tunery.api.access import JobsReader, ModelsReader, ModelsWriter
from tunery.api.context import Context, ContextDep
from tunery.api.routing import Router
from tunery.api.tunery.console.routes import file_ref, training_cost
from tunery.api.tunery.console.schemas import (
    CatalogEntry,
    CatalogOut,
    Dependents,
    JobRef,
    LearnedFile,
    MadeBy,
    ModelDetail,
    ModelName,
    ModelSibling,
    ModelWords,
    PriceOut,
    RunOfModel,
    UsageDay,
    Weights,
)
from tunery.domain.errors import NotFound, no_such_model
from tunery.domain.evals import EvalRun
from tunery.domain.intervals import share
from tunery.domain.jobs import FineTuningJob
from tunery.domain.models import Alias, FineTunedModel
from tunery.domain.names import check_suffix, new_name, parse_name
from tunery.domain.tenants import Caller
from tunery.domain.usage import MICRO, PICO
from tunery.engines.pool import resolve
from tunery.jobs.verbs import trainable
from tunery.models.catalog import CatalogModel
from tunery.store import evals, jobs, models, tenants, usage
from tunery.store.audit import record
from tunery.store.database import read, write

router = Router(prefix="/tunery/v1", tags=["Console"])

MAX_MODELS = 1_000
MAX_NAMES = 100
MAX_RUNS = 20  # of evals, and jobs, on the page of a model
DAY_S, USAGE_DAYS = 86_400, 30
NOTHING = "–"  # under a name whose model was deleted


@router.post("/models/{model:path}")
def name_model(model: str, body: ModelWords, caller: ModelsWriter, context: ContextDep) -> CatalogEntry:
    """Its owner's words for a model. Its name, which requests use, stays as it is."""
    words = body.model_dump(include=body.model_fields_set)
    with write(context.database) as conn:
        named = models.describe_model(conn, model, caller.project_id, **words)
        learned = _learned_files(conn, caller.project_id, [named])
        record(conn, caller, "model.renamed", now=context.clock(), resource_id=model, changed=words)
    return _own_entry(context, named, learned[named.name])


# ---- one tuned model


@router.get("/models/{model:path}")
def get_model(model: str, caller: ModelsReader, context: ContextDep) -> ModelDetail:
    """A tuned model: what it was made of, what it came to, how it is used, and what depends on it."""
    with read(context.database) as conn:
        found = models.find_model(conn, model, caller.project_id)
        if found is None:
            raise no_such_model(model)
        is_own = found.project_id == caller.project_id
        job = jobs.find_job(conn, found.job_id, caller.project_id) if found.job_id else None
        entry = _own_entry(context, found, _learned_files(conn, caller.project_id, [found])[found.name])
        _rename(conn, context, caller.project_id, entry, models.list_aliases(conn, caller.project_id))
        runs = evals.runs_of_model(conn, caller.project_id, found.name, limit=MAX_RUNS)
        siblings = models.list_models_of_job(conn, job.id) if job else ()
        return ModelDetail(
            **entry.model_dump(),
            card=found.card,
            is_own=is_own,
            num_bytes=found.num_bytes,
            base_sha256=found.base_sha256,
            made_by=_made_by(conn, context, job, found) if job else None,
            checkpoints=[ModelSibling(**_named(each)) for each in siblings if each.name != found.name],
            evaluations=[_run_of_model(run, name) for run, name in runs],
            usage=_usage(conn, context, caller, found.name),
            dependents=_dependents(conn, caller.project_id, found, entry.aliases) if is_own else None,
        )


def _named(model: FineTunedModel) -> dict[str, Any]:
    return {"name": model.name, "step_number": model.step_number, "created_at": model.created_at}


def _made_by(conn: Connection, context: Context, job: FineTuningJob, model: FineTunedModel) -> MadeBy:
    at_step = (each.metrics for each in job.details.checkpoints if each.step == model.step_number)
    chosen = asdict(job.hyperparameters)
    if job.method != "dpo":
        del chosen["beta"]
    return MadeBy(
        id=job.id,
        display_name=job.display_name,
        model=job.model,
        method=job.method,
        hyperparameters=chosen,
        training_file=file_ref(conn, job, job.training_file),
        validation_file=file_ref(conn, job, job.validation_file) if job.validation_file else None,
        trained_tokens=job.trained_tokens,
        cost=training_cost(context, job),
        metrics=next(at_step, job.details.metrics),
    )


def _run_of_model(run: EvalRun, eval_name: str) -> RunOfModel:
    graded = run.num_passed + run.num_failed + run.num_errored
    return RunOfModel(
        eval_id=run.eval_id,
        eval_name=eval_name,
        run_id=run.id,
        created_at=run.created_at,
        status=run.status,
        passed=run.num_passed,
        graded=graded,
        share=share(run.num_passed, graded),
    )


def _usage(conn: Connection, context: Context, caller: Caller, model: str) -> list[UsageDay]:
    today = int(context.clock()) // DAY_S * DAY_S
    sums = usage.sum_usage(
        conn,
        caller.organization_id,
        width_s=DAY_S,
        start=today - (USAGE_DAYS - 1) * DAY_S,
        end=today + DAY_S,
        filters={"project_id": (caller.project_id,), "model": (model,)},
    )
    return [
        UsageDay(
            start_time=each.start_time,
            num_requests=each.num_requests,
            input_tokens=each.usage.input_tokens,
            cached_tokens=each.usage.cached_tokens,
            output_tokens=each.usage.output_tokens,
            cost=each.cost.total / PICO,
        )
        for each in sums
    ]


def _dependents(conn: Connection, project_id: str, model: FineTunedModel, aliases: list[str]) -> Dependents:
    going_on = jobs.jobs_from_model(conn, project_id, model.name, limit=MAX_RUNS)
    shared = models.list_permissions(conn, model.name, limit=MAX_MODELS)
    return Dependents(
        aliases=aliases,
        jobs=[JobRef(id=job.id, display_name=job.display_name, status=job.status) for job in going_on],
        num_unfinished_runs=evals.num_unfinished_runs(conn, project_id, model.name),
        num_projects=len(shared.items),
    )


# ---- all models


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
    names: Annotated[
        list[str] | None,
        Query(alias="names[]", max_length=MAX_NAMES, description="Only what these names, or aliases, lead to."),
    ] = None,
) -> CatalogOut:
    """Every model this project may use, with limits, prices and weights; fine-tuned ones first, newest first."""
    wanted = search.casefold()
    with read(context.database) as conn:
        aliases = models.list_aliases(conn, caller.project_id)
        called = [alias.target for alias in aliases if wanted in alias.name.casefold()]
        meant = None if names is None else {*names, *(alias.target for alias in aliases if alias.name in names)}
        own = models.list_models(conn, caller.project_id, text=search, also=called, names=meant, limit=limit + 1)
        learned = _learned_files(conn, caller.project_id, own[:limit])
        tuned = [_own_entry(context, model, learned[model.name]) for model in own[:limit]]
        bases = [_base_entry(context, base) for base in context.catalog if base.serving or base.training]
        for entry in tuned + bases:
            _rename(conn, context, caller.project_id, entry, aliases)
    found = [
        base
        for base in _compared(bases)
        for own_names in [{base.name, *base.aliases}]
        if any(wanted in name.casefold() for name in own_names) and (meant is None or meant & own_names)
    ]
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
