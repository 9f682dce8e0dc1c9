"""Evals, their runs and output items. The worker carries a run out (`runner.py`): what is wrong with a row is told by
its output item, and never by the request that creates the run."""

from typing import Annotated, Any, Literal

from fastapi import Query
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from tunery.api.access import EvalsReader, EvalsWriter, check_scope
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.evals.checks import (
    check_criteria,
    check_data_source,
    scopes_of,
    wire_config,
    wire_criterion,
    wire_data_source,
)
from tunery.api.evals.of_job import tell_of_deletion, tell_when_last
from tunery.api.evals.schemas import (
    CriterionCounts,
    DataSource,
    DeletedEval,
    DeletedRun,
    EvalCreate,
    EvalError,
    EvalObject,
    EvalUpdate,
    ModelUsage,
    OutputItemObject,
    ResultCounts,
    RunCreate,
    RunObject,
)
from tunery.api.graders.grading import check_sources
from tunery.api.graders.schemas import LabelModel
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.routing import Router
from tunery.domain.errors import InvalidRequest
from tunery.domain.evals import UNFINISHED, Eval, EvalRun, OutputItem, RunStatus
from tunery.domain.ids import new_id
from tunery.domain.tenants import Caller
from tunery.metering.budget import check_budget
from tunery.metering.limits import project_limits
from tunery.metering.storage import claim_storage
from tunery.notify.announce import announce
from tunery.sandbox.pool import Sandbox
from tunery.store import evals as store
from tunery.store import files, tenants
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(prefix="/v1/evals", tags=["Evals"])

Order = Annotated[Literal["asc", "desc"], Query(description="By time.")]
USAGE = ("invocation_count", "prompt_tokens", "completion_tokens", "cached_tokens", "total_tokens")


# ---- evals


@router.post("", status_code=201)
@takes_up_to(MAX_PROMPT_BYTES)
async def create_eval(body: EvalCreate, caller: EvalsWriter, context: ContextDep) -> EvalObject:
    config = wire_config(body.data_source_config)
    check_criteria(body.testing_criteria, config)
    for number, criterion in enumerate(body.testing_criteria):
        if not isinstance(criterion, LabelModel):
            where = f"testing_criteria[{number}]"
            await check_sources(criterion, context.shared(Sandbox), caller.project_id, where)
    now = context.now()
    made = Eval(
        id=new_id("eval"),
        project_id=caller.project_id,
        created_at=now,
        updated_at=now,
        name=body.name or "",
        data_source_config=config,
        testing_criteria=[wire_criterion(criterion) for criterion in body.testing_criteria],
        metadata=body.metadata,
    )

    def keep() -> None:
        num_bytes, param = store.num_bytes_of_eval(made), "testing_criteria"
        with write(context.database) as conn:
            tenants.get_active_project(conn, caller.project_id)
            claim_storage(conn, context.settings, caller.project_id, num_bytes, now=now, param=param)
            store.insert_eval(conn, made)
            record(conn, caller, "eval.created", now=now, resource_id=made.id, made={"name": made.name})

    await run_in_threadpool(keep)
    return EvalObject.of(made)


@router.get("")
def list_evals(
    caller: EvalsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
    order_by: Annotated[Literal["created_at", "updated_at"], Query()] = "created_at",
) -> CursorListing[EvalObject]:
    """The oldest first, unless `order` says otherwise."""
    with read(context.database) as conn:
        page = store.list_evals(conn, caller.project_id, after=after, limit=limit, order=order, order_by=order_by)
    return CursorListing[EvalObject].of(page, EvalObject.of)


@router.get("/{eval_id}")
def retrieve_eval(eval_id: str, caller: EvalsReader, context: ContextDep) -> EvalObject:
    with read(context.database) as conn:
        return EvalObject.of(store.get_eval(conn, eval_id, caller.project_id))


@router.post("/{eval_id}")
def update_eval(eval_id: str, body: EvalUpdate, caller: EvalsWriter, context: ContextDep) -> EvalObject:
    """Its name and metadata. What it asks stays: runs of one eval can be compared."""
    changed: dict[str, Any] = body.model_dump(exclude_unset=True)
    if "name" in changed:
        changed["name"] = changed["name"] or ""
    now = context.now()
    with write(context.database) as conn:
        found = store.update_eval(conn, eval_id, caller.project_id, now, **changed)
        record(conn, caller, "eval.updated", now=now, resource_id=eval_id, changed=changed)
    return EvalObject.of(found)


@router.delete("/{eval_id}")
def delete_eval(eval_id: str, caller: EvalsWriter, context: ContextDep) -> DeletedEval:
    """With its runs; those under way end."""
    now = context.clock()
    with write(context.database) as conn:
        asked = store.get_eval(conn, eval_id, caller.project_id)
        waiting = store.jobs_under_way(conn, eval_id)
        store.delete_eval(conn, eval_id, caller.project_id)
        record(conn, caller, "eval.deleted", now=now, resource_id=eval_id)
        for job_id in waiting:
            tell_of_deletion(conn, context, asked, job_id, now=now)
    return DeletedEval(eval_id=eval_id)


# ---- runs


def wire_run(context: Context, run: EvalRun) -> RunObject:
    values: dict[str, Any] = {
        **vars(run),
        "metadata": run.metadata or {},
        "report_url": f"{context.settings.base_url}/evals/{run.eval_id}?run_id={run.id}",
        "result_counts": ResultCounts(
            total=run.num_rows, errored=run.num_errored, failed=run.num_failed, passed=run.num_passed
        ),
        "per_model_usage": [
            ModelUsage(model_name=name, **{key: counts.get(key, 0) for key in USAGE})
            for name, counts in run.usage.items()
        ],
        "per_testing_criteria_results": [
            CriterionCounts(testing_criteria=name, **counts) for name, counts in run.criteria.items()
        ],
        "error": _error(context, run),
    }
    return RunObject.model_validate(values)


def _error(context: Context, run: EvalRun) -> EvalError | None:
    if run.error is not None:
        return EvalError.model_validate(run.error)
    return EvalError(code="", message="") if context.settings.evals_without_null else None


@router.post("/{eval_id}/runs", status_code=201)
@takes_up_to(MAX_PROMPT_BYTES)
def create_run(eval_id: str, body: RunCreate, caller: EvalsWriter, context: ContextDep) -> RunObject:
    """Of the eval's criteria on rows: given here, of a file, or stored answers."""
    source, now = body.data_source, context.now()
    model = source.model or ""
    run = EvalRun(
        id=new_id("eval_run"),
        eval_id=eval_id,
        project_id=caller.project_id,
        created_at=now,
        status=RunStatus.QUEUED,
        name=body.name or model,
        model=model,
        data_source=wire_data_source(source),
        api_key_id=caller.key_id,
        created_by=caller.user_id,
        metadata=body.metadata,
    )
    with write(context.database) as conn:
        asked = store.get_eval(conn, eval_id, caller.project_id)
        check_data_source(source, asked.data_source_config)
        for scope in scopes_of(run.data_source, asked.testing_criteria):
            check_scope(caller, scope)
        tenants.get_active_project(conn, caller.project_id)
        _check_limits(conn, context, caller, source)
        store.insert_run(conn, run)
        made = {"eval_id": eval_id, "model": model, "data_source": source.type}
        record(conn, caller, "eval.run.created", now=now, resource_id=run.id, made=made)
    return wire_run(context, run)


def _check_limits(conn: Connection, context: Context, caller: Caller, source: DataSource) -> None:
    now, own = context.clock(), project_limits(conn, context.settings, caller.project_id)
    num_bytes = len(source.model_dump_json())
    claim_storage(conn, context.settings, caller.project_id, num_bytes, now=now, param="data_source")
    check_budget(conn, caller.project_id, own, now=now)
    file_id = source.source.id
    if file_id is not None and files.find_file(conn, file_id, caller.project_id) is None:
        message = say("error.run_file_unknown", file_id=file_id, project_id=caller.project_id)
        raise InvalidRequest(message, param="data_source.source.id")


@router.get("/{eval_id}/runs")
def list_runs(
    eval_id: str,
    caller: EvalsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
    status: Annotated[RunStatus | None, Query()] = None,
) -> CursorListing[RunObject]:
    with read(context.database) as conn:
        store.get_eval(conn, eval_id, caller.project_id)
        page = store.list_runs(conn, eval_id, status=status, after=after, limit=limit, order=order)
    return CursorListing[RunObject].of(page, lambda run: wire_run(context, run))


@router.get("/{eval_id}/runs/{run_id}")
def retrieve_run(eval_id: str, run_id: str, caller: EvalsReader, context: ContextDep) -> RunObject:
    with read(context.database) as conn:
        return wire_run(context, store.get_run(conn, run_id, caller.project_id, eval_id))


@router.post("/{eval_id}/runs/{run_id}/cancel")
@router.post("/{eval_id}/runs/{run_id}", name="cancel_run_as_formerly")
def cancel_run(eval_id: str, run_id: str, caller: EvalsWriter, context: ContextDep) -> RunObject:
    """What was graded until then stays, and is paid for. SDKs of version 2 and before call the run itself."""
    now = context.clock()
    with write(context.database) as conn:
        _hold(conn, run_id, caller.project_id, eval_id)
        run, is_changed = store.cancel_run(conn, run_id, caller.project_id, eval_id, now)
        if is_changed:
            record(conn, caller, "eval.run.canceled", now=now, resource_id=run_id)
            announce(conn, caller.project_id, "eval.run.canceled", run_id, now=now)
            tell_when_last(conn, context, run.job_id, now=now)
    return wire_run(context, run)


@router.delete("/{eval_id}/runs/{run_id}")
def delete_run(eval_id: str, run_id: str, caller: EvalsWriter, context: ContextDep) -> DeletedRun:
    """With its output items. One that is under way ends."""
    now = context.clock()
    with write(context.database) as conn:
        run = _hold(conn, run_id, caller.project_id, eval_id)
        store.delete_run(conn, run_id, caller.project_id, eval_id)
        record(conn, caller, "eval.run.deleted", now=now, resource_id=run_id)
        if run.status in UNFINISHED:
            tell_when_last(conn, context, run.job_id, now=now)
    return DeletedRun(run_id=run_id)


def _hold(conn: Connection, run_id: str, project_id: str, eval_id: str) -> EvalRun:
    """The run, and with it the others of its job: of two that end together, one is the last."""
    run = store.get_run(conn, run_id, project_id, eval_id)
    if run.job_id is not None:
        store.runs_of_job(conn, run.job_id, hold=True)
    return run


# ---- output items


def _wire_item(context: Context, eval_id: str, item: OutputItem) -> OutputItemObject:
    sample = item.sample
    if context.settings.evals_without_null:
        sample = {name: NO_NULL.get(name) if value is None else value for name, value in sample.items()}
    values = {**vars(item), "eval_id": eval_id, "datasource_item_id": item.row, "datasource_item": item.item}
    return OutputItemObject.model_validate({**values, "sample": sample})


@router.get("/{eval_id}/runs/{run_id}/output_items")
def list_output_items(
    eval_id: str,
    run_id: str,
    caller: EvalsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
    status: Annotated[Literal["pass", "fail", "error"] | None, Query()] = None,
) -> CursorListing[OutputItemObject]:
    """In the order in which they were graded: `datasource_item_id` says which row each is."""
    with read(context.database) as conn:
        store.get_run(conn, run_id, caller.project_id, eval_id)
        page = store.list_items(conn, run_id, status=status, after=after, limit=limit, order=order)
    return CursorListing[OutputItemObject].of(page, lambda item: _wire_item(context, eval_id, item))


@router.get("/{eval_id}/runs/{run_id}/output_items/{output_item_id}")
def retrieve_output_item(
    eval_id: str, run_id: str, output_item_id: str, caller: EvalsReader, context: ContextDep
) -> OutputItemObject:
    with read(context.database) as conn:
        store.get_run(conn, run_id, caller.project_id, eval_id)
        return _wire_item(context, eval_id, store.get_item(conn, output_item_id, run_id))


NO_NULL: dict[str, Any] = {
    "error": {"code": "", "message": ""},
    "max_completion_tokens": 0,
    "seed": 0,
    "temperature": 1.0,
    "top_p": 1.0,
}
"""What stands for null in a sample where the setting `evals_without_null` asks for it."""
