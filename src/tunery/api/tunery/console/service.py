"""Answers for the dashboard. Reads what others wrote; changes nothing but display names."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection

from tunery.api.context import Context
from tunery.api.tunery.console.schemas import (
    Curves,
    LearnedFile,
    ModelName,
    PriceOut,
    ProjectRef,
    SessionOut,
    Weights,
)
from tunery.domain.errors import NotFound
from tunery.domain.jobs import FineTuningJob, JobStatus
from tunery.domain.models import Alias, FineTunedModel
from tunery.domain.names import check_suffix, new_name
from tunery.domain.tenants import Caller, Project, Role
from tunery.domain.usage import MICRO, PICO
from tunery.engines.pool import resolve
from tunery.jobs.verbs import trainable
from tunery.store import console as store
from tunery.store import files, tenants
from tunery.store import models as models_store
from tunery.store.database import read, write
from tunery.store.jobs import get_job, set_display_name
from tunery.store.models import list_models
from tunery.store.paging import Page

PROJECTS = 1_000  # in one look; all are listed
MAX_MODELS = 1_000
NOTHING = "–"  # under a name whose model was deleted


def session(context: Context, caller: Caller) -> SessionOut:
    with read(context.database) as conn:
        organization = tenants.get_organization(conn, caller.organization_id)
        projects = _reachable_projects(conn, caller)
    return SessionOut(
        organization_id=organization.id,
        organization=organization.name,
        project_id=caller.project_id,
        projects=projects,
        role=caller.role.value,
        is_owner=caller.is_admin or caller.role is Role.OWNER,
    )


def _reachable_projects(conn: Connection, caller: Caller) -> list[ProjectRef]:
    """An admin key may name any project of its organisation; every other key knows its own."""
    if not caller.is_admin:
        own = tenants.get_project(conn, caller.project_id, caller.organization_id)
        return [ProjectRef(id=own.id, name=own.name)]
    found: list[Project] = []
    has_more = True
    while has_more:
        after = found[-1].id if found else None
        page = tenants.list_projects(conn, caller.organization_id, after=after, limit=PROJECTS)
        found, has_more = [*found, *page.items], page.has_more
    return [ProjectRef(id=project.id, name=project.name) for project in found]


def search_jobs(
    context: Context, caller: Caller, *, text: str, status: JobStatus | None, after: str | None, limit: int
) -> Page[FineTuningJob]:
    with read(context.database) as conn:
        statuses = (status,) if status else ()
        return store.search_jobs(conn, caller.project_id, text=text, statuses=statuses, after=after, limit=limit)


def job(context: Context, caller: Caller, job_id: str) -> FineTuningJob:
    with read(context.database) as conn:
        return get_job(conn, job_id, caller.project_id)


def name_job(context: Context, caller: Caller, job_id: str, display_name: str | None) -> FineTuningJob:
    with write(context.database) as conn:
        return set_display_name(conn, job_id, caller.project_id, display_name)


def name_model(context: Context, caller: Caller, name: str, display_name: str | None) -> FineTunedModel:
    with write(context.database) as conn:
        return models_store.set_display_name(conn, name, caller.project_id, display_name)


def model_name(context: Context, caller: Caller, model: str, suffix: str | None) -> ModelName:
    """What a job's model will be called. Raises InvalidRequest when model or suffix cannot be taken."""
    with read(context.database) as conn:
        _, base = trainable(conn, model, caller.project_id, context.catalog)
        organization = tenants.get_organization(conn, caller.organization_id)
    if suffix is not None:
        check_suffix(suffix)
    named = new_name(base=base, organization=organization.slug, suffix=suffix)
    return ModelName(name=str(replace(named, id="…")), suffix=named.suffix)


def curves(context: Context, caller: Caller, job_id: str, points: int) -> Curves:
    with read(context.database) as conn:
        get_job(conn, job_id, caller.project_id)
        rows = store.list_metrics(conn, job_id, max_points=points)
    return Curves(**{name: _curve(rows, name) for name in Curves.model_fields})


def _curve(rows: Iterable[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(row["step"], row[name]) for row in rows if row.get(name) is not None]


def models(
    context: Context, caller: Caller, text: str, limit: int, *, also: Iterable[str]
) -> tuple[tuple[FineTunedModel, ...], bool]:
    """Those with this text in their names, `also` those of these names, and whether there are more than `limit`."""
    with read(context.database) as conn:
        found = list_models(conn, caller.project_id, text=text, also=also, limit=limit + 1)
    return found[:limit], len(found) > limit


def learned_files(context: Context, caller: Caller, found: Sequence[FineTunedModel]) -> dict[str, list[LearnedFile]]:
    """By model name: what each was trained on, and what the models were that it goes on from."""
    with read(context.database) as conn:
        jobs = store.training_files(conn, [model.job_id for model in found if model.job_id])
        known = {model.name: model.job_id for model in found}
        while missing := {job.model for job in jobs.values() if job.model.startswith("ft:")} - known.keys():
            before = models_store.find_models(conn, missing)
            known |= dict.fromkeys(missing) | {model.name: model.job_id for model in before}
            jobs |= store.training_files(conn, [model.job_id for model in before if model.job_id])

    def files_of(name: str) -> list[LearnedFile]:
        learned: list[LearnedFile] = []
        while (job := jobs.get(known.get(name) or "")) is not None:
            own = job.project_id == caller.project_id
            learned.append(LearnedFile(id=job.training_file if own else None, sha256=job.sha256))
            name = job.model
        return learned

    return {model.name: files_of(model.name) for model in found}


def aliases(context: Context, caller: Caller) -> Sequence[Alias]:
    """The project's own names."""
    with read(context.database) as conn:
        return models_store.list_aliases(conn, caller.project_id)


def answering(context: Context, caller: Caller, alias: str) -> tuple[Weights, list[LearnedFile]]:
    """What stands under a name of the project's own, and what it was trained on."""
    with read(context.database) as conn:
        try:
            found = resolve(conn, context.catalog, alias, caller.project_id)
        except NotFound:
            return Weights(name=NOTHING, source="", adapter=None), []
    if found.upstream is not None:
        return Weights(name=f"{found.source}{found.upstream}", source=found.source, adapter=None), []
    weights = Weights(name=context.catalog.weights_of(found.source), source=found.source, adapter=None)
    if found.adapter is None:
        return weights, []
    weights.adapter = found.adapter.id
    return weights, learned_files(context, caller, [found.adapter])[found.adapter.name]


def file_names(context: Context, caller: Caller, file_ids: Iterable[str | None]) -> dict[str, str | None]:
    with read(context.database) as conn:
        found = {file_id: files.find_file(conn, file_id, caller.project_id) for file_id in file_ids if file_id}
    return {file_id: file.filename if file else None for file_id, file in found.items()}


def weights_of(context: Context, job: FineTuningJob) -> str:
    """Those it was trained on; before that, those that its base has now."""
    base = context.catalog.find(job.base_model)
    source = job.details.source or (base.source if base else job.base_model)
    return context.catalog.weights_of(source)


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
    body["seed"] = job.seed
    body["method"] = {"type": job.method, job.method: {"hyperparameters": chosen}}
    return body


def price_of(context: Context, model: str, base: str) -> PriceOut:
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


def job_cost(context: Context, job: FineTuningJob) -> float | None:
    """At the price of the day it ended. Null unless it has succeeded: nothing else is charged."""
    if job.status is not JobStatus.SUCCEEDED or job.trained_tokens is None:
        return None
    price = context.prices.training_price(job.base_model, job.finished_at or context.clock())
    return job.trained_tokens * price / PICO
