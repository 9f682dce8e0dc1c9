"""Evals, their runs, and what came of each row."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import orjson
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from tunery.domain.errors import InvalidTransition, NotFound
from tunery.domain.evals import UNFINISHED, Eval, EvalRun, OutputItem, RunStatus
from tunery.store.eval_tables import eval_output_items as items
from tunery.store.eval_tables import eval_runs as runs
from tunery.store.eval_tables import evals
from tunery.store.leases import NO_WORKER, Leases
from tunery.store.paging import Page, fetch_page, own, update_row, values_of
from tunery.texts import say

Json = dict[str, Any]


@dataclass(frozen=True)
class Graded:
    """A row's outcome, with what it adds to the counts of its run."""

    item: OutputItem
    usage: Sequence[tuple[str, dict[str, int]]] = ()  # of each request: the model's name, and counts


# ---- evals


def insert_eval(conn: Connection, made: Eval) -> None:
    conn.execute(insert(evals).values(asdict(made) | {"bytes": num_bytes_of_eval(made)}))


def num_bytes_of_eval(made: Eval) -> int:
    """What it counts towards its project's storage: its JSON. Name and metadata, which may change, are short."""
    return len(orjson.dumps([made.data_source_config, made.testing_criteria]))


def get_eval(conn: Connection, eval_id: str, project_id: str) -> Eval:
    row = conn.execute(select(evals).where(*own(evals, eval_id, project_id))).first()
    if row is None:
        raise _no_such_eval(eval_id)
    return _to_eval(row)


def list_evals(
    conn: Connection,
    project_id: str,
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"],
    order_by: Literal["created_at", "updated_at"],
) -> Page[Eval]:
    query = select(evals).where(evals.c.project_id == project_id)
    by = evals.c[order_by], evals.c.seq
    return fetch_page(conn, query, evals, _to_eval, after=after, limit=limit, order=by, descending=order == "desc")


def update_eval(conn: Connection, eval_id: str, project_id: str, now: float, **values: Any) -> Eval:
    row = update_row(conn, evals, *own(evals, eval_id, project_id), updated_at=int(now), **values)
    if row is None:
        raise _no_such_eval(eval_id)
    return _to_eval(row)


def delete_eval(conn: Connection, eval_id: str, project_id: str) -> None:
    """With its runs and all that came of them. Raises NotFound."""
    if conn.execute(delete(evals).where(*own(evals, eval_id, project_id))).rowcount == 0:
        raise _no_such_eval(eval_id)


# ---- runs


def insert_run(conn: Connection, run: EvalRun) -> None:
    conn.execute(insert(runs).values(asdict(run) | {"bytes": len(orjson.dumps(run.data_source))}))


def insert_ended_run(conn: Connection, run: EvalRun, came: Sequence[OutputItem]) -> None:
    """One that was carried out elsewhere, with what came of its rows."""
    insert_run(conn, run)
    if came:
        conn.execute(insert(items), [asdict(each) | {"bytes": num_bytes(each)} for each in came])


def get_run(conn: Connection, run_id: str, project_id: str, eval_id: str | None = None) -> EvalRun:
    """`eval_id`: that it must be of."""
    of_eval = [] if eval_id is None else [runs.c.eval_id == eval_id]
    row = conn.execute(select(runs).where(*own(runs, run_id, project_id), *of_eval)).first()
    if row is None:
        raise _no_such_run(run_id)
    return _to_run(row)


def list_runs(
    conn: Connection, eval_id: str, *, status: str | None, after: str | None, limit: int, order: Literal["asc", "desc"]
) -> Page[EvalRun]:
    query = select(runs).where(runs.c.eval_id == eval_id)
    if status is not None:
        query = query.where(runs.c.status == status)
    return fetch_page(conn, query, runs, _to_run, after=after, limit=limit, descending=order == "desc")


def newest_asking_run(conn: Connection, eval_id: str) -> EvalRun | None:
    """The newest that asked a model, which tells what its rows are and how they are asked; those of jobs aside."""
    query = select(runs).where(runs.c.eval_id == eval_id, runs.c.model != "", runs.c.job_id.is_(None))
    row = conn.execute(query.order_by(runs.c.seq.desc()).limit(1)).first()
    return None if row is None else _to_run(row)


def runs_of_model(conn: Connection, project_id: str, model: str, *, limit: int) -> list[tuple[EvalRun, str]]:
    """Each with its eval's name, newest first."""
    query = select(runs, evals.c.name.label("eval_name")).join(evals, evals.c.id == runs.c.eval_id)
    query = query.where(runs.c.project_id == project_id, runs.c.model == model).order_by(runs.c.seq.desc())
    return [(_to_run(row, "eval_name"), row.eval_name) for row in conn.execute(query.limit(limit))]


def num_unfinished_runs(conn: Connection, project_id: str, model: str) -> int:
    """That ask the model."""
    mine = runs.c.project_id == project_id, runs.c.model == model, runs.c.status.in_(UNFINISHED)
    return conn.execute(select(func.count()).select_from(runs).where(*mine)).scalar_one()


def unfinished_on(conn: Connection, names: Sequence[str]) -> list[str]:
    """Of all projects: the ids of runs that ask a model by one of these names and have not ended."""
    query = select(runs.c.id).where(runs.c.model.in_(names), runs.c.status.in_(UNFINISHED))
    return list(conn.execute(query).scalars())


def jobs_under_way(conn: Connection, eval_id: str) -> list[str]:
    """Whose runs of this eval have not all ended."""
    theirs = runs.c.eval_id == eval_id, runs.c.job_id.is_not(None), runs.c.status.in_(UNFINISHED)
    return [*conn.execute(select(runs.c.job_id).where(*theirs).distinct()).scalars()]


def runs_of_job(conn: Connection, job_id: str, *, hold: bool = False) -> list[EvalRun]:
    """In the order in which they were made. `hold`: until the transaction ends, so that of two that end together one is
    the last."""
    query = select(runs).where(runs.c.job_id == job_id).order_by(runs.c.seq)
    return [_to_run(row) for row in conn.execute(query.with_for_update() if hold else query)]


def cancel_run(conn: Connection, run_id: str, project_id: str, eval_id: str, now: float) -> tuple[EvalRun, bool]:
    """→ canceled at once, and who works on it leaves off. Again: no change, which the flag says. Raises
    InvalidTransition when it has ended otherwise."""
    run = get_run(conn, run_id, project_id, eval_id)
    if run.status is RunStatus.CANCELED:
        return run, False
    values = {"status": RunStatus.CANCELED, "finished_at": int(now), **NO_WORKER}
    row = update_row(conn, runs, *own(runs, run_id, project_id), runs.c.status.in_(UNFINISHED), **values)
    if row is None:
        raise InvalidTransition(say("error.run_has_ended", run_id=run_id, status=run.status))
    return _to_run(row), True


def delete_run(conn: Connection, run_id: str, project_id: str, eval_id: str) -> None:
    """With its output items. Raises NotFound."""
    mine = *own(runs, run_id, project_id), runs.c.eval_id == eval_id
    if conn.execute(delete(runs).where(*mine)).rowcount == 0:
        raise _no_such_run(run_id)


# ---- for the worker


def start_run(
    conn: Connection, run_id: str, worker_id: str, now: float, *, num_rows: int, answer_ids: list[str] | None
) -> EvalRun | None:
    """→ in_progress. None: it is no longer this worker's."""
    values = {"started_at": int(now), "num_rows": num_rows, "answer_ids": answer_ids}
    row = update_row(conn, runs, *_mine(run_id, worker_id), status=RunStatus.IN_PROGRESS, **values)
    return None if row is None else _to_run(row)


def end_run(
    conn: Connection, run_id: str, worker_id: str, status: RunStatus, now: float, error: dict[str, str] | None
) -> EvalRun | None:
    """None: it is no longer this worker's, and nothing is written."""
    values = {"status": status, "finished_at": int(now), "error": error, **NO_WORKER}
    row = update_row(conn, runs, *_mine(run_id, worker_id), **values)
    return None if row is None else _to_run(row)


def add_items(conn: Connection, run_id: str, worker_id: str, graded: Sequence[Graded]) -> bool:
    """Once for each row, together with the run's counts. False, and nothing is written, when the run is no longer this
    worker's."""
    held = conn.execute(select(runs).where(*_mine(run_id, worker_id)).with_for_update()).first()
    if held is None:
        return False
    run = _counted(_to_run(held), graded)
    names = ("num_passed", "num_failed", "num_errored", "criteria", "usage")
    conn.execute(update(runs).where(runs.c.id == run_id).values({name: getattr(run, name) for name in names}))
    conn.execute(insert(items), [asdict(one.item) | {"bytes": num_bytes(one.item)} for one in graded])
    return True


def num_bytes(item: OutputItem) -> int:
    """What it counts towards its project's storage: its JSON."""
    return len(orjson.dumps([item.item, item.results, item.sample]))


def answered_rows(conn: Connection, run_id: str) -> set[int]:
    """Those that need not be asked again."""
    return set(conn.scalars(select(items.c.row).where(items.c.run_id == run_id)))


def _counted(run: EvalRun, graded: Sequence[Graded]) -> EvalRun:
    numbers = {"pass": run.num_passed, "fail": run.num_failed, "error": run.num_errored}
    criteria = {name: dict(counts) for name, counts in run.criteria.items()}
    usage = {name: dict(counts) for name, counts in run.usage.items()}
    for one in graded:
        numbers[one.item.status] += 1
        for result in one.item.results:
            counts = criteria.setdefault(result["name"], {"passed": 0, "failed": 0, "errored": 0})
            counts["errored" if "error" in result else "passed" if result["passed"] else "failed"] += 1
        for model, used in one.usage:
            counts = usage.setdefault(model, {})
            for name, number in used.items():
                counts[name] = counts.get(name, 0) + number
    passed, failed, errored = numbers.values()
    counted = {"num_passed": passed, "num_failed": failed, "num_errored": errored}
    return replace(run, criteria=criteria, usage=usage, **counted)


def _mine(run_id: str, worker_id: str) -> tuple[Any, ...]:
    return runs.c.id == run_id, runs.c.worker_id == worker_id, runs.c.status.in_(UNFINISHED)


# ---- output items


def outcomes(conn: Connection, run_id: str) -> dict[int, bool]:
    """Whether each row passed, by its number."""
    query = select(items.c.row, items.c.status).where(items.c.run_id == run_id)
    return {row: status == "pass" for row, status in conn.execute(query)}


def get_item(conn: Connection, item_id: str, run_id: str) -> OutputItem:
    row = conn.execute(select(items).where(items.c.id == item_id, items.c.run_id == run_id)).first()
    if row is None:
        raise NotFound(say("error.no_such_output_item", item_id=item_id[:200]), param="output_item_id")
    return _to_item(row)


def list_items(
    conn: Connection, run_id: str, *, status: str | None, after: str | None, limit: int, order: Literal["asc", "desc"]
) -> Page[OutputItem]:
    """In the order in which they were there, which is not that of the rows."""
    query = select(items).where(items.c.run_id == run_id)
    if status is not None:
        query = query.where(items.c.status == status)
    return fetch_page(conn, query, items, _to_item, after=after, limit=limit, descending=order == "desc")


def _no_such_eval(eval_id: str) -> NotFound:
    return NotFound(say("error.no_such_eval", eval_id=eval_id[:200]), param="eval_id")


def _no_such_run(run_id: str) -> NotFound:
    return NotFound(say("error.no_such_run", run_id=run_id[:200]), param="run_id")


def _to_eval(row: Row[Any]) -> Eval:
    return Eval(**values_of(row, "bytes"))


def _to_run(row: Row[Any], *beside: str) -> EvalRun:
    """`beside`: columns that are not the run's."""
    return EvalRun(**values_of(row, "bytes", *beside, *NO_WORKER, status=RunStatus(row.status)))


def _to_item(row: Row[Any]) -> OutputItem:
    return OutputItem(**values_of(row, "bytes"))


LEASES = Leases(runs, UNFINISHED, _to_run)
