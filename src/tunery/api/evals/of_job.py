"""What a job's eval came to: base, previous and new model on the same rows, with how far the shares may be trusted and
the rows that changed sides. Told on the job's page, at the command line and, when the last run has ended, by mail."""

from collections import Counter
from typing import Literal

from pydantic import BaseModel, Field
from sqlalchemy import Connection

from tunery.api.access import EvalsReader, check_scope
from tunery.api.context import Context, ContextDep
from tunery.api.routing import Router
from tunery.domain.errors import NotFound
from tunery.domain.evals import UNFINISHED, Eval, EvalRun, JobRole, RunStatus
from tunery.domain.intervals import Interval, bootstrap_counts, share
from tunery.domain.jobs import RUN_EVAL
from tunery.domain.tenants import Scope
from tunery.notify.announce import announce_evaluation
from tunery.store import evals, events, jobs
from tunery.store.database import read
from tunery.texts import Text, say, with_texts

router = Router(prefix="/tunery/v1/jobs", tags=["Console"])

LISTED_ROWS = 50


class ModelResult(BaseModel):
    role: JobRole
    model: str
    run_id: str
    status: RunStatus
    total: int = Field(description="Rows; 0 until the run has begun.")
    graded: int
    passed: int
    errored: int = Field(description="Rows that could not be graded, which did not pass.")
    share: Interval = Field(description="Of the graded rows that passed, with its 95 % interval.")


class Change(BaseModel):
    against: JobRole
    run_id: str
    rows: int = Field(description="That both models answered.")
    difference: Interval = Field(description="Of the shares, new minus this one, row by row; with its 95 % interval.")
    gained: int = Field(description="Rows that pass now and did not.")
    lost: int = Field(description="Rows that passed and do not now.")
    gained_rows: list[int] = Field(description="The first of them, by `datasource_item_id`.")
    lost_rows: list[int]
    url: str = Field(description="Both runs side by side.")


class JobEvaluation(BaseModel):
    object: Literal["tunery.job_evaluation"] = "tunery.job_evaluation"
    job_id: str
    eval_id: str
    eval_name: str
    is_over: bool = Field(description="The job and all runs have ended.")
    models: list[ModelResult] = Field(description="Base, previous and new model; empty until the job has succeeded.")
    changes: list[Change] = Field(description="The new model against each other.")


@router.get("/{job_id}/evaluation")
def get_evaluation(job_id: str, caller: EvalsReader, context: ContextDep) -> JobEvaluation:
    """Of a job with `metadata.run_eval`: base, previous and new model on the same rows."""
    check_scope(caller, Scope.JOBS_READ)
    with read(context.database) as conn:
        job = jobs.get_job(conn, job_id, caller.project_id)
        eval_id = (job.metadata or {}).get(RUN_EVAL)
        if eval_id is None:
            raise NotFound(say("error.job_without_eval", job_id=job_id), param="job_id")
        try:
            name = evals.get_eval(conn, eval_id, caller.project_id).name
        except NotFound:  # deleted, and its runs with it
            name = ""
        runs = evals.runs_of_job(conn, job_id)
        found = {run.id: evals.outcomes(conn, run.id) for run in runs}
    return JobEvaluation(
        job_id=job_id,
        eval_id=eval_id,
        eval_name=name,
        is_over=job.is_terminal and not any(run.status in UNFINISHED for run in runs),
        models=[_result(run, found[run.id]) for run in runs],
        changes=_changes(context, runs, found),
    )


def _result(run: EvalRun, outcomes: dict[int, bool]) -> ModelResult:
    assert run.job_role is not None
    passed = sum(outcomes.values())
    return ModelResult(
        role=run.job_role,
        model=run.model,
        run_id=run.id,
        status=run.status,
        total=run.num_rows,
        graded=len(outcomes),
        passed=passed,
        errored=run.num_errored,
        share=share(passed, len(outcomes)),
    )


def _changes(context: Context, runs: list[EvalRun], found: dict[str, dict[int, bool]]) -> list[Change]:
    new = next((run for run in runs if run.job_role == "new"), None)
    return [_change(context, new, run, found) for run in runs if new is not None and run is not new]


def _change(context: Context, new: EvalRun, old: EvalRun, found: dict[str, dict[int, bool]]) -> Change:
    now, before = found[new.id], found[old.id]
    both = sorted(now.keys() & before.keys())
    gained = [row for row in both if now[row] and not before[row]]
    lost = [row for row in both if before[row] and not now[row]]
    counts = Counter({1.0: len(gained), -1.0: len(lost), 0.0: len(both) - len(gained) - len(lost)})
    assert old.job_role is not None
    return Change(
        against=old.job_role,
        run_id=old.id,
        rows=len(both),
        difference=bootstrap_counts(counts),
        gained=len(gained),
        lost=len(lost),
        gained_rows=gained[:LISTED_ROWS],
        lost_rows=lost[:LISTED_ROWS],
        url=f"{context.settings.base_url}/evals/{new.eval_id}?run_id={new.id}&against={old.id}",
    )


# ---- the mail


def tell_when_last(conn: Connection, context: Context, job_id: str | None, *, now: float) -> None:
    """A mail to the job's creator, once none of its runs is under way any more. In the transaction that ended one of
    them, which holds them all (`evals.runs_of_job`)."""
    runs = evals.runs_of_job(conn, job_id) if job_id else []
    if job_id is None or not runs or any(run.status in UNFINISHED for run in runs):
        return
    found = {run.id: evals.outcomes(conn, run.id) for run in runs}
    job = jobs.get_job(conn, job_id)
    name = job.display_name or job.fine_tuned_model or job_id
    text = say(
        "mail.evaluation.text",
        name=evals.get_eval(conn, runs[0].eval_id, job.project_id).name or runs[0].eval_id,
        job=job_id,
        models=_lines([_model_line(_result(run, found[run.id])) for run in runs]),
        changes=_lines([_change_line(change) for change in _changes(context, runs, found)]),
        link=f"{context.settings.base_url}/dashboard/jobs/{job_id}",
    )
    payload = with_texts({"subject": say("mail.evaluation.subject", name=name), "text": text})
    announce_evaluation(conn, job, payload, now=now)


def tell_of_deletion(conn: Connection, context: Context, asked: Eval, job_id: str, *, now: float) -> None:
    """The eval was deleted while the job's runs were under way, which went with it: the job's events say so, and the
    mail that its creator waits for."""
    job, name = jobs.get_job(conn, job_id), asked.name or asked.id
    events.add_event(conn, job_id, say("event.evaluation_deleted", name=name), now=now, level="warn", data={})
    link = f"{context.settings.base_url}/dashboard/jobs/{job_id}"
    subject = say("mail.evaluation.subject", name=job.display_name or job.fine_tuned_model or job_id)
    text = say("mail.evaluation.deleted", name=name, job=job_id, link=link)
    announce_evaluation(conn, job, with_texts({"subject": subject, "text": text}), now=now)


def _lines(lines: list[Text]) -> Text | str:
    """One below the other; a Text all the same, so that each is worded in the reader's language."""
    if not lines:
        return ""
    return lines[0] if len(lines) == 1 else say("mail.evaluation.lines", first=lines[0], rest=_lines(lines[1:]))


def _model_line(result: ModelResult) -> Text:
    role = say(f"evaluation.{result.role}")
    if not result.graded:
        return say("mail.evaluation.none", role=role, model=result.model)
    return say(
        "mail.evaluation.model",
        role=role,
        model=result.model,
        share=_percent(result.share),
        passed=f"{result.passed:,}",
        graded=f"{result.graded:,}",
    )


def _change_line(change: Change) -> Text:
    return say(
        "mail.evaluation.change",
        role=say(f"evaluation.{change.against}"),
        difference=_percent(change.difference, "+"),
        gained=f"{change.gained:,}",
        lost=f"{change.lost:,}",
        url=change.url,
    )


def _percent(interval: Interval, sign: str = "") -> Text:
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in (interval.mean, interval.low, interval.high))
    return say("evaluation.interval", mean=mean, low=low, high=high)
