"""`tunery jobs`: fine-tuning jobs."""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tunery.cli.connection import CommandFailed, catalog_by_name, client_of, get_own, tell_weights, weights_note
from tunery.cli.files import file_id_of, local_path
from tunery.cli.output import Json, Limit, console, duration, emit_json, facts, notes, pairs, status, table, tell, when
from tunery.cli.watch import follow, watch
from tunery.domain.jobs import RUN_EVAL, RUN_EVAL_FILE

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

app = typer.Typer(no_args_is_help=True, help="Create and follow fine-tuning jobs.")

PAGE = 100

JobId = Annotated[str, typer.Argument(help="A job's id, `ftjob-…`.")]
Number = Annotated[str, typer.Option(help="A number or `auto`.")]


@app.command()
def create(
    ctx: typer.Context,
    training_file: Annotated[str, typer.Argument(help="A JSONL file, or the id of one that is uploaded.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model to start from.")] = "gpt-4o-mini-2024-07-18",
    validation_file: Annotated[str | None, typer.Option("--validation", help="A JSONL file, or a file id.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Stands in the new model's name.")] = None,
    method: Annotated[str, typer.Option(help="`supervised` or `dpo`.")] = "supervised",
    epochs: Number = "auto",
    batch_size: Number = "auto",
    learning_rate_multiplier: Number = "auto",
    beta: Annotated[str, typer.Option(help="DPO only: a number or `auto`.")] = "auto",
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same order of examples.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="`KEY=VALUE`; may be given several times.")] = None,
    eval_id: Annotated[
        str | None, typer.Option("--eval", help="An eval that base, previous and new model answer at the end.")
    ] = None,
    eval_file: Annotated[
        str | None, typer.Option("--eval-file", help="Its rows, a JSONL file or a file id; else those of its last run.")
    ] = None,
    follow_it: Annotated[bool, typer.Option("--watch", help="Stay until the job has ended.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the job would come to; upload and create nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create a job, uploading files that are given by path."""
    hyperparameters = {
        "n_epochs": _number("--epochs", epochs),
        "batch_size": _number("--batch-size", batch_size),
        "learning_rate_multiplier": _number("--learning-rate-multiplier", learning_rate_multiplier),
        **({"beta": _number("--beta", beta)} if method == "dpo" else {}),
    }
    if dry_run:
        return _estimate(ctx, training_file, validation_file, model, method, hyperparameters, as_json)
    client = client_of(ctx)
    if eval_file is not None and eval_id is None:
        raise typer.BadParameter("`--eval-file` needs `--eval`.")
    optional: dict[str, Any] = {
        "suffix": suffix,
        "seed": seed,
        "metadata": {**(pairs(metadata) or {}), **({RUN_EVAL: eval_id} if eval_id else {})} or None,
    }
    given = {name: value for name, value in optional.items() if value is not None}
    _check_before_upload(client, training_file, validation_file, model, method, hyperparameters, given)
    body: dict[str, Any] = {
        "model": model,
        "training_file": file_id_of(client, training_file, "fine-tune"),
        **({"validation_file": file_id_of(client, validation_file, "fine-tune")} if validation_file else {}),
        "method": {"type": method, method: {"hyperparameters": hyperparameters}},
        **given,
    }
    if eval_file is not None:
        body["metadata"][RUN_EVAL_FILE] = file_id_of(client, eval_file, "evals")
    job = client.fine_tuning.jobs.create(**body)
    if follow_it:
        return _watch(client, job.id, as_json)
    tell(job, as_json, job.id)


@app.command("list")
def list_jobs(ctx: typer.Context, limit: Limit = 20, as_json: Json = False) -> None:
    """List jobs, newest first."""
    client = client_of(ctx)
    if as_json:
        return emit_json(list(islice(client.fine_tuning.jobs.list(limit=min(limit, 100)), limit)))
    found = islice(_summaries(client), limit)
    columns = ("id", "status", "suffix", "model", "weights", "progress", "time", ">cost", "created")
    console.print(table(columns, map(_row, found), empty="No jobs yet: `tunery jobs create FILE`."))


@app.command()
def get(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Show one job."""
    client = client_of(ctx)
    job = client.fine_tuning.jobs.retrieve(job_id)
    if as_json:
        return emit_json(job)
    _show(client, job)


@app.command("watch")
def watch_job(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Follow a job to its end; exit code 1 when that is no success. With --json, one event a line."""
    _watch(client_of(ctx), job_id, as_json)


@app.command()
def cancel(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Cancel a job."""
    client = client_of(ctx)
    _changed(client, client.fine_tuning.jobs.cancel(job_id), as_json)


@app.command()
def pause(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Pause a job; it keeps what it has learned."""
    client = client_of(ctx)
    _changed(client, client.fine_tuning.jobs.pause(job_id), as_json)


@app.command()
def resume(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Go on with a job that is paused, or that failed and can be resumed."""
    client = client_of(ctx)
    _changed(client, client.fine_tuning.jobs.resume(job_id), as_json)


@app.command()
def events(ctx: typer.Context, job_id: JobId, limit: Limit = 50, as_json: Json = False) -> None:
    """List a job's events, newest first."""
    found = list(islice(client_of(ctx).fine_tuning.jobs.list_events(job_id, limit=min(limit, 100)), limit))
    rows = ((when(event.created_at), event.level, event.message) for event in found)
    tell(found, as_json, table(("time", "level", "message"), rows, empty="No events."))


@app.command()
def checkpoints(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """List the checkpoints a job left, the last first. Each can be called as a model."""
    client = client_of(ctx)
    found = list(client.fine_tuning.jobs.checkpoints.list(job_id))
    if as_json:
        return emit_json(found)
    standing = f"fine-tuned on {get_own(client, f'/jobs/{job_id}')['weights']}"
    rows = (
        (str(point.step_number), point.fine_tuned_model_checkpoint, standing, _decimal(point.metrics.train_loss))
        for point in found
    )
    columns = (">step", "model", "weights", ">training loss")
    console.print(table(columns, rows, empty="No checkpoints yet: one comes with the end of an epoch."))


def _estimate(
    ctx: typer.Context,
    training_file: str,
    validation_file: str | None,
    model: str,
    method: str,
    hyperparameters: dict[str, Any],
    as_json: bool,
) -> None:
    """Files that are given by path are looked at here, uploaded ones by the server."""
    from tunery.cli.data_view import print_estimate
    from tunery.cli.data_work import estimate_here, estimate_there

    if Path(training_file).is_file():
        valid = Path(validation_file) if validation_file else None
        found = estimate_here(Path(training_file), valid, model, method, hyperparameters)
    else:
        client = client_of(ctx)
        if not as_json:
            tell_weights(client, model)
        found = estimate_there(client, training_file, validation_file, model, method, hyperparameters)
    if as_json:
        return emit_json({"model": model, "method": method, **found.to_dict()})
    print_estimate(found, model)


def _watch(client: "OpenAI", job_id: str, as_json: bool) -> None:
    try:
        job = follow(client, job_id, _print_events) if as_json else watch(client, job_id, console)
    except KeyboardInterrupt:
        notes.print(f"The job goes on. See it again with: tunery jobs watch {job_id}")
        raise
    if as_json:
        typer.echo(job.to_json(indent=None))
    else:
        _show(client, job)
    if job.status != "succeeded":
        raise typer.Exit(1)


def _print_events(_job: "FineTuningJob", events: "list[FineTuningJobEvent]") -> None:
    for event in events:
        typer.echo(event.to_json(indent=None))


def _summaries(client: "OpenAI") -> Iterator[dict[str, Any]]:
    """Every job, newest first, with what OpenAI's object leaves out: progress and cost."""
    query: dict[str, Any] = {"limit": PAGE}
    while True:
        page = get_own(client, "/jobs", **query)
        yield from page["data"]
        if not page["has_more"]:
            return
        query["after"] = page["data"][-1]["id"]


def _row(job: dict[str, Any]) -> tuple[str | Text, ...]:
    return (
        job["id"],
        _state(job),
        job["suffix"] or "",
        job["fine_tuned_model"] or job["model"],
        job["weights"],
        _progress(job),
        _time(job),
        _cost(job),
        when(job["created_at"]),
    )


def _state(summary: dict[str, Any]) -> Text:
    """The status, and what may come next where the status does not say it."""
    state = status(summary["status"])
    if summary["pausing"]:
        state.append(", pausing")
    elif summary["status"] == "failed" and summary["resumable"]:
        state.append(", can be resumed")
    return state


def _progress(job: dict[str, Any]) -> str:
    total = job["total_steps"]
    return f"{job['step']:,} of {total:,} steps" if total else ""


def _time(job: dict[str, Any]) -> str:
    """What is left of a running job, what an ended one took."""
    if job["estimated_finish"]:
        return f"{duration(job['estimated_finish'] - time.time())} left"
    if job["started_at"] and job["finished_at"]:
        return duration(job["finished_at"] - job["started_at"])
    return ""


def _cost(job: dict[str, Any]) -> str:
    return "" if job["cost"] is None else f"{job['cost']:.4f} {job['currency'].upper()}"


def _show(client: "OpenAI", job: "FineTuningJob") -> None:
    console.print(facts(_facts(job, get_own(client, f"/jobs/{job.id}"))))
    if RUN_EVAL in (job.metadata or {}):
        _show_evaluation(get_own(client, f"/jobs/{job.id}/evaluation"))


def _show_evaluation(found: dict[str, Any]) -> None:
    """The three models, then the rows that changed sides."""
    rows = (
        (
            each["role"],
            each["model"],
            _between(each["share"]) if each["graded"] else "",
            f"{each['passed']:,} of {each['graded']:,}" if each["graded"] else "",
            status(each["status"]),
        )
        for each in found["models"]
    )
    empty = "Its eval was not run: its events say why." if found["is_over"] else "Its eval runs when it has succeeded."
    console.print(table(("eval", "model", ">passed, 95 % interval", ">rows", "run"), rows, empty=empty))
    for each in found["changes"]:
        if each["rows"]:
            told = f"{_between(each['difference'], '+')}, {each['gained']:,} rows gained, {each['lost']:,} lost"
            console.print(Text(f"new against {each['against']}: {told}"))
            notes.print(Text(each["url"]))


def _between(interval: dict[str, float], sign: str = "") -> str:
    mean, low, high = (f"{100 * interval[name]:{sign}.1f}" for name in ("mean", "low", "high"))
    return f"{mean} % ({low} to {high})"


def _facts(job: "FineTuningJob", summary: dict[str, Any]) -> list[tuple[str, str | Text]]:
    chosen = job.hyperparameters
    pairs: list[tuple[str, str | Text]] = [
        ("id", job.id),
        ("status", _state(summary)),
        ("model", job.model),
        ("weights", summary["weights"]),
        ("suffix", summary["suffix"] or ""),
        ("fine-tuned model", job.fine_tuned_model or ""),
        ("progress", _progress(summary)),
        ("time", _time(summary)),
        ("training file", job.training_file),
        ("validation file", job.validation_file or ""),
        ("epochs, batch size", f"{chosen.n_epochs}, {chosen.batch_size}"),
        ("learning rate multiplier", str(chosen.learning_rate_multiplier)),
        ("seed", str(job.seed)),
        ("trained tokens", f"{job.trained_tokens:,}" if job.trained_tokens else ""),
        ("cost", _cost(summary)),
        ("result files", ", ".join(job.result_files)),
        ("created", when(job.created_at)),
        ("finished", when(job.finished_at)),
        ("error", Text(job.error.message if job.error and job.error.message else "", "red")),
    ]
    return [(name, value) for name, value in pairs if value]


def _changed(client: "OpenAI", job: "FineTuningJob", as_json: bool) -> None:
    if as_json:
        return emit_json(job)
    console.print(Text(f"{job.id} ") + _state(get_own(client, f"/jobs/{job.id}")))


def _check_before_upload(
    client: "OpenAI",
    training_file: str,
    validation_file: str | None,
    model: str,
    method: str,
    hyperparameters: dict[str, Any],
    given: dict[str, Any],
) -> None:
    """Finds on this machine what would make the job fail, so that nothing is uploaded for it. Raises CommandFailed
    or InvalidRequest with what to mend."""
    from tunery.cli.data_work import make_reports, refuse_unusable
    from tunery.domain.hyperparameters import Hyperparameters
    from tunery.jobs.requests import JobRequest, check

    training, validation = local_path(training_file), local_path(validation_file) if validation_file else None
    chosen = Hyperparameters(**hyperparameters)
    checked = check(JobRequest(model, training_file, method=method, hyperparameters=chosen, **given))
    _check_model(client, model)
    if training is not None:
        refuse_unusable(make_reports(training, validation, None, checked), (training, validation))


def _check_model(client: "OpenAI", model: str) -> None:
    entries = catalog_by_name(client)
    if model not in entries:
        trainable = dict.fromkeys(entry["name"] for entry in entries.values() if entry["training"])
        trainable = sorted(trainable, key=lambda name: name.startswith("ft:"))  # bases before what was made of them
        raise CommandFailed(f"The model {model} is not there. These can be trained: {', '.join(trainable) or 'none'}.")
    if not entries[model]["training"]:
        raise CommandFailed(f"The model {model} can be asked but not trained.")
    notes.print(Text(weights_note(entries[model]), "dim"))


def _number(option: str, text: str) -> int | float | str:
    if text == "auto":
        return text
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise typer.BadParameter(f"{option} must be a number or `auto`, not {text!r}.") from None


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
