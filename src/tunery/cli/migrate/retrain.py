"""`retrain` and `distill`: successors for the old models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunery.cli.connection import client_of
from tunery.cli.migrate.options import DEFAULT_BUNDLE
from tunery.cli.output import Json, console, emit_json, notes, table

if TYPE_CHECKING:
    from tunery.migrate.source import Json as Described


def retrain(
    ctx: typer.Context,
    jobs: Annotated[
        list[str] | None, typer.Argument(help="Ids of imported jobs; by default all that succeeded.")
    ] = None,
    bundle: Annotated[Path, typer.Option(help="The bundle they were imported with.", file_okay=False)] = DEFAULT_BUNDLE,
    base: Annotated[str | None, typer.Option(help="The base to train on; by default the one each job names.")] = None,
    as_json: Json = False,
) -> None:
    """Create a job here for each imported one: same data and seed, equivalent hyperparameters."""
    from tunery.migrate.retrain import retrain as retrain_all

    client = client_of(ctx)
    with notes.status("Creating jobs…"):
        made = list(retrain_all(client, _chosen(bundle, jobs), base=base))
    if as_json:
        return emit_json([vars(each) for each in made])
    rows = ((each.old_job, each.new_job or "", each.reason) for each in made)
    console.print(table(("old job", "new job", "why not"), rows, empty="The bundle holds no jobs."))
    if any(each.new_job for each in made):
        notes.print("They train one after another: `tunery jobs list`. Then `tunery migrate openai report`.")


def _chosen(bundle: Path, ids: list[str] | None) -> "list[Described]":
    from tunery.domain.errors import no_such_job
    from tunery.migrate.bundle import Bundle

    opened = Bundle.open(bundle)
    for job_id in ids or []:
        if not opened.has("jobs", job_id):
            raise no_such_job(job_id)
    wanted = ids or opened.ids("jobs")
    return sorted((opened.get("jobs", job_id)["job"] for job_id in wanted), key=lambda job: job["created_at"])


def distill(
    ctx: typer.Context,
    golden: Annotated[Path, typer.Argument(help="A golden file that `capture` wrote.", exists=True)],
    base: Annotated[str, typer.Option(help="The base to train on.")] = "gpt-4o-mini-2024-07-18",
    suffix: Annotated[str | None, typer.Option(help="Stands in the new model's name.")] = None,
    as_json: Json = False,
) -> None:
    """Create a job that teaches a base what the old model answered."""
    from tunery.migrate.capture import read_answers, to_training_rows

    client = client_of(ctx)
    rows = b"".join(to_training_rows(read_answers(golden)))
    uploaded = client.files.create(file=(f"{golden.stem}.train.jsonl", rows), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=base, training_file=uploaded.id, suffix=suffix)
    if as_json:
        return emit_json(job)
    console.print(job.id)
    notes.print(f"Follow it with `tunery jobs watch {job.id}`.")
