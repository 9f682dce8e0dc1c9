"""Parts of a job's page as markup."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from nicegui import ui
from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.report import problem_list
from tunery.dashboard.components.table import Row
from tunery.dashboard.connection import Failure
from tunery.dashboard.models import playground_path
from tunery.dashboard.visit import BASE, Visit
from tunery.texts import Translator

MAX_PROBLEMS = 20


def facts_of(facts: dict[str, Any], t: Translator) -> Markup:
    """The tiles at the top: progress, time, tokens, cost."""
    step, total = facts["step"], facts["total_steps"]
    left = facts["estimated_finish"] - time.time() if facts["estimated_finish"] else None
    steps = t("job.steps", step=html.number(step), total=html.number(total)) if total else ""
    remaining = t("job.left", time=html.duration(left, t)) if left else ""
    return html.tiles_markup(
        [
            (t("job.progress"), html.progress(step, total, t), steps),
            (
                t("job.time"),
                html.duration(facts["elapsed_s"], t),
                remaining,
            ),
            (t("job.tokens"), html.number(facts["trained_tokens"]), t("job.tokens_text")),
            (t("job.cost"), html.money(facts["cost"], facts["currency"]), t("job.cost_text")),
        ]
    )


def events_list(events: Sequence[Mapping[str, Any]], t: Translator) -> Markup:
    if not events:
        return Markup('<p class="muted">{}</p>').format(t("job.no_events"))
    items = [
        Markup('<li class="{}">{}<span>{}</span></li>').format(
            event["level"], html.when(event["created_at"], t), t.word(event, "message")
        )
        for event in events
    ]
    return Markup('<ol class="events" tabindex="0" aria-label="{}">{}</ol>').format(
        t("job.events"), Markup("").join(items)
    )


def checkpoint_rows(
    checkpoints: Sequence[FineTuningJobCheckpoint], job: FineTuningJob, standing: str, t: Translator
) -> list[Row]:
    return [
        Row(
            checkpoint.id,
            [
                html.number(checkpoint.step_number),
                html.two_lines(html.model_name(checkpoint.fine_tuned_model_checkpoint), standing),
                _metrics(checkpoint, t),
                html.link(playground_path(job.model, checkpoint.fine_tuned_model_checkpoint), t("job.play")),
            ],
        )
        for checkpoint in checkpoints
    ]


def _metrics(checkpoint: FineTuningJobCheckpoint, t: Translator) -> str:
    metrics = checkpoint.metrics
    loss = metrics.full_valid_loss if metrics.full_valid_loss is not None else metrics.train_loss
    accuracy = metrics.full_valid_mean_token_accuracy
    accuracy = metrics.train_mean_token_accuracy if accuracy is None else accuracy
    return t(
        "job.metric_line",
        loss=html.DASH if loss is None else f"{loss:.3f}",
        accuracy=html.DASH if accuracy is None else f"{100 * accuracy:.1f} %",
    )


def evaluation_of(found: Mapping[str, Any], t: Translator) -> Markup:
    """Base, previous and new model on the rows of the job's eval, then which rows changed sides."""
    name = html.link(f"{BASE}/evals/{found['eval_id']}", html.model_name(found["eval_name"] or found["eval_id"]))
    if not found["models"]:
        told = t("job.evaluation_not_run" if found["is_over"] else "job.evaluation_to_come")
        return Markup('<p>{}</p><p class="muted">{}</p>').format(name, told)
    facts: list[tuple[str, str | Markup]] = [
        (t(f"evaluation.{each['role']}"), html.two_lines(_share(each, t), html.model_name(each["model"])))
        for each in found["models"]
    ]
    changes = Markup("").join(
        Markup('<p>{} <a href="{}">{}</a></p>').format(
            t(
                "job.evaluation_change",
                role=t(f"evaluation.{each['against']}"),
                difference=_between(each["difference"], t, "+"),
                gained=html.number(each["gained"]),
                lost=html.number(each["lost"]),
            ),
            f"{BASE}/evals/{found['eval_id']}?{each['url'].partition('?')[2]}",
            t("evals.beside"),
        )
        for each in found["changes"]
        if each["rows"]
    )
    return Markup("<p>{}</p>{}{}").format(name, html.facts(facts), changes)


def _share(result: Mapping[str, Any], t: Translator) -> Markup:
    state = html.status_chip(result["status"], t)
    if not result["graded"]:
        return state
    rows = t("evals.of_rows", n=f"{result['passed']:,}", total=f"{result['graded']:,}")
    return Markup("{} · {} {}").format(
        _between(result["share"], t), rows, "" if result["status"] == "completed" else state
    )


def _between(interval: Mapping[str, float], t: Translator, sign: str = "") -> str:
    return t("evaluation.interval", **{name: f"{100 * interval[name]:{sign}.1f}" for name in ("mean", "low", "high")})


def hyperparameter_rows(chosen: Mapping[str, Any], document: Mapping[str, Any], t: Translator) -> Markup:
    """Each value with why it has it: the `reasons` of a forecast or of a job's facts."""
    known = document["texts"].get("reasons") or {}
    reasons = {name: t.reword(why, known.get(name)) for name, why in document["reasons"].items()}
    pairs: list[tuple[str, str | Markup]] = [
        (
            t(f"create.{name}"),
            Markup('{}<span class="muted small"> · {}</span>').format(html.number(value), reasons[name])
            if reasons.get(name)
            else str(value),
        )
        for name, value in chosen.items()
    ]
    return html.facts(pairs)


async def failure(visit: Visit, job: FineTuningJob, texts: Mapping[str, Any]) -> None:
    """Why the job failed, and which lines of the file to mend."""
    if job.error is None:
        return
    message = job.error.message or job.error.code
    known = texts.get("error")
    blocks.note(visit.t.reword(message, known) if known else visit.t("error.foreign", message=message), kind="bad")
    if job.error.param not in ("training_file", "validation_file"):
        return
    file_id = job.training_file if job.error.param == "training_file" else job.validation_file
    asked = {"file": file_id, "model": job.model}
    report = await visit.ask(visit.connection.post("/tunery/v1/validations", asked))
    if isinstance(report, Failure):
        ui.label(report.message(visit.t)).classes("muted")
        return
    with blocks.panel(visit.t("report.problems")):
        problem_list(report, visit.t, most=MAX_PROBLEMS)
        html.show(html.link(f"{BASE}/datasets/{file_id}", visit.t("report.open_file")))


async def trainer_log(visit: Visit, job_id: str) -> None:
    """For an owner, where the trainer left one: nobody else asks for what would be refused."""
    who = await visit.ask(visit.connection.get("/tunery/v1/session"))
    if isinstance(who, Failure) or not who["is_owner"]:
        return
    found = await visit.ask(visit.connection.get(f"/tunery/v1/jobs/{job_id}/log"))
    if not isinstance(found, Failure):
        name = visit.t("job.trainer_log")
        log = Markup('<pre class="raw log" tabindex="0" aria-label="{}">{}</pre>').format(name, found["log"])
        html.show(Markup("<details><summary>{}</summary>{}</details>").format(name, log)).classes("panel")
