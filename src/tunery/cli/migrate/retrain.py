"""`retrain` and `distill`: successors for the old models; `evals`: what the old ones were measured by, once more."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunery.cli.connection import client_of, get_own
from tunery.cli.migrate.options import DEFAULT_BUNDLE
from tunery.cli.output import Json, console, emit_json, notes, table

if TYPE_CHECKING:
    from tunery.migrate.evals import Outcome
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


def evals(
    ctx: typer.Context,
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of imported evals; by default all.")] = None,
    model: Annotated[str | None, typer.Option(help="That answers, in place of each old model's successor.")] = None,
    as_json: Json = False,
) -> None:
    """Run imported evals again on the same rows, answered by the old models' successors, and show old beside new.

    A successor is what `switch` let the old name answer with, else what `retrain` made of its job, else the model of
    that name. Called again, it repeats nothing and shows how far the new runs are.
    """
    from dataclasses import asdict

    from tunery.migrate.evals import rerun

    client = client_of(ctx)
    with notes.status("Starting runs…"):
        found = list(rerun(client, get_own(client, "/aliases")["data"], ids or (), model=model))
    if as_json:
        return emit_json([asdict(each) for each in found])
    rows = (
        (each.name or each.eval_id, *_told(each.old), *(_told(each.new) if each.new else ("", "")), each.reason)
        for each in found
    )
    columns = ("eval", "old model", ">passed", "new model", ">passed", "why not")
    console.print(table(columns, rows, empty="No imported run of an eval is here: `tunery migrate openai import`."))
    for each in found:
        if each.report_url:
            notes.print(f"{each.old.model or each.old.run_id}: {each.report_url}")


def _told(outcome: "Outcome") -> tuple[str, str]:
    """The model, and how many of its rows passed, or how far the run is."""
    passed = f"{outcome.passed:,} of {outcome.total:,}" if outcome.total else ""
    ended = outcome.status == "completed"
    return outcome.model or "–", passed if ended else f"{outcome.status} {passed}".strip()
