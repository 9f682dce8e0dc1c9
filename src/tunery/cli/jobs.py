"""`tunery jobs`: fine-tuning jobs."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from tunery.cli.connection import client_of
from tunery.cli.output import Json, Limit, console, emit_json, facts, notes, status, table, when
from tunery.cli.watch import follow, watch

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

app = typer.Typer(no_args_is_help=True, help="Create and follow fine-tuning jobs.")

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
    optional = {
        "validation_file": _file_id(client, validation_file) if validation_file else None,
        "suffix": suffix,
        "seed": seed,
        "metadata": dict(_pair(text) for text in metadata) if metadata else None,
    }
    body: dict[str, Any] = {
        "model": model,
        "training_file": _file_id(client, training_file),
        "method": {"type": method, method: {"hyperparameters": hyperparameters}},
        **{name: value for name, value in optional.items() if value is not None},
    }
    job = client.fine_tuning.jobs.create(**body)
    if follow_it:
        return _watch(client, job.id, as_json)
    if as_json:
        return emit_json(job)
    console.print(job.id)


@app.command("list")
def list_jobs(ctx: typer.Context, limit: Limit = 20, as_json: Json = False) -> None:
    """List jobs, newest first."""
    client = client_of(ctx)
    found = list(islice(client.fine_tuning.jobs.list(limit=min(limit, 100)), limit))
    if as_json:
        return emit_json(found)
    rows = ((job.id, status(job.status), job.fine_tuned_model or job.model, when(job.created_at)) for job in found)
    console.print(table(("id", "status", "model", "created"), rows, empty="No jobs yet: `tunery jobs create FILE`."))


@app.command()
def get(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Show one job."""
    job = client_of(ctx).fine_tuning.jobs.retrieve(job_id)
    if as_json:
        return emit_json(job)
    console.print(facts(_facts(job)))


@app.command("watch")
def watch_job(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Follow a job to its end; exit code 1 when that is no success. With --json, one event a line."""
    _watch(client_of(ctx), job_id, as_json)


@app.command()
def cancel(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Cancel a job."""
    _changed(client_of(ctx).fine_tuning.jobs.cancel(job_id), as_json)


@app.command()
def pause(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Pause a job; it keeps what it has learned."""
    _changed(client_of(ctx).fine_tuning.jobs.pause(job_id), as_json)


@app.command()
def resume(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Go on with a paused job."""
    _changed(client_of(ctx).fine_tuning.jobs.resume(job_id), as_json)


@app.command()
def events(ctx: typer.Context, job_id: JobId, limit: Limit = 50, as_json: Json = False) -> None:
    """List a job's events, newest first."""
    found = list(islice(client_of(ctx).fine_tuning.jobs.list_events(job_id, limit=min(limit, 100)), limit))
    if as_json:
        return emit_json(found)
    rows = ((when(event.created_at), event.level, escape(event.message)) for event in found)
    console.print(table(("time", "level", "message"), rows, empty="No events."))


@app.command()
def checkpoints(ctx: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """List the checkpoints a job left, the last first. Each can be called as a model."""
    found = list(client_of(ctx).fine_tuning.jobs.checkpoints.list(job_id))
    if as_json:
        return emit_json(found)
    rows = (
        (str(point.step_number), point.fine_tuned_model_checkpoint, _decimal(point.metrics.train_loss))
        for point in found
    )
    console.print(
        table((">step", "model", ">training loss"), rows, empty="No checkpoints: they come with the success.")
    )


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
        found = estimate_there(client_of(ctx), training_file, validation_file, model, method, hyperparameters)
    if as_json:
        return emit_json({"model": model, "method": method, **found.to_dict()})
    print_estimate(found, model)


def _watch(client: "OpenAI", job_id: str, as_json: bool) -> None:
    try:
        job = follow(client, job_id, _print_events) if as_json else watch(client, job_id, console)
    except KeyboardInterrupt:
        notes.print(f"The job goes on. See it again with: tunery jobs watch {job_id}")
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(job.to_json(indent=None))
    else:
        console.print(facts(_facts(job)))
    if job.status != "succeeded":
        raise typer.Exit(1)


def _print_events(_job: "FineTuningJob", events: "list[FineTuningJobEvent]") -> None:
    for event in events:
        typer.echo(event.to_json(indent=None))


def _facts(job: "FineTuningJob") -> list[tuple[str, str]]:
    chosen = job.hyperparameters
    pairs = [
        ("id", job.id),
        ("status", status(job.status)),
        ("model", job.model),
        ("fine-tuned model", job.fine_tuned_model or ""),
        ("training file", job.training_file),
        ("validation file", job.validation_file or ""),
        ("epochs, batch size", f"{chosen.n_epochs}, {chosen.batch_size}"),
        ("learning rate multiplier", str(chosen.learning_rate_multiplier)),
        ("seed", str(job.seed)),
        ("trained tokens", f"{job.trained_tokens:,}" if job.trained_tokens else ""),
        ("result files", ", ".join(job.result_files)),
        ("created", when(job.created_at)),
        ("finished", when(job.finished_at)),
        ("error", f"[red]{escape(job.error.message)}[/red]" if job.error and job.error.message else ""),
    ]
    return [(name, value) for name, value in pairs if value]


def _changed(job: "FineTuningJob", as_json: bool) -> None:
    if as_json:
        return emit_json(job)
    console.print(f"{job.id} {status(job.status)}")


def _file_id(client: "OpenAI", given: str) -> str:
    """An existing path is uploaded; anything else is taken for an id, which the server judges."""
    path = Path(given)
    if not path.is_file():
        if path.suffix or "/" in given:
            raise typer.BadParameter(f"There is no file {given}.")
        return given
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    notes.print(f"Uploaded {path.name} as {uploaded.id}.")
    return uploaded.id


def _number(option: str, text: str) -> int | float | str:
    if text == "auto":
        return text
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise typer.BadParameter(f"{option} must be a number or `auto`, not {text!r}.") from None


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise typer.BadParameter(f"--metadata must be KEY=VALUE, not {text!r}.")
    return key, value


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
