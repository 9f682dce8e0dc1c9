"""`tunery evals`: rows, a model's answers to them, and the criteria that grade these."""

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunery.cli.connection import CommandFailed, client_of
from tunery.cli.files import file_id_of, local_path
from tunery.cli.output import (
    Json,
    Limit,
    console,
    emit_json,
    facts,
    pairs,
    status,
    table,
    tell,
    when,
)
from tunery.cli.watch import Rows, follow_rows
from tunery.domain.evals import UNFINISHED

if TYPE_CHECKING:
    from openai import OpenAI

app = typer.Typer(no_args_is_help=True, help="Grade a model's answers to rows.")

EvalId = Annotated[str, typer.Argument(help="An eval's id, `eval_…`.")]
RunId = Annotated[str, typer.Argument(help="A run's id, `evalrun_…`.")]
OfEval = Annotated[str | None, typer.Option("--eval", help="The run's eval; looked for when not given.")]


@app.command()
def create(
    ctx: typer.Context,
    definition: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON: the body of evals.create.")],
    name: Annotated[str | None, typer.Option(help="In place of that of the file.")] = None,
    as_json: Json = False,
) -> None:
    """Create an eval of a JSON file with `data_source_config` and `testing_criteria`, and print its id."""
    try:
        body = json.loads(definition.read_text("utf-8-sig"))
    except ValueError as exc:
        raise CommandFailed(f"{definition} is no JSON: {exc}") from None
    if not isinstance(body, dict):
        raise CommandFailed(f"{definition} holds no JSON object.")
    made = client_of(ctx).evals.create(**{**body, **({"name": name} if name else {})})
    tell(made, as_json, made.id)


@app.command("list")
def list_evals(ctx: typer.Context, limit: Limit = 20, as_json: Json = False) -> None:
    """List evals, newest first."""
    found = list(islice(client_of(ctx).evals.list(limit=min(limit, 100), order="desc"), limit))
    rows = (
        (each.id, each.name, ", ".join(criterion.name for criterion in each.testing_criteria), when(each.created_at))
        for each in found
    )
    tell(found, as_json, table(("id", "name", "criteria", "created"), rows, empty="No evals yet."))


@app.command()
def get(ctx: typer.Context, eval_id: EvalId, limit: Limit = 20, as_json: Json = False) -> None:
    """Show an eval and its runs, newest first."""
    client = client_of(ctx)
    found = client.evals.retrieve(eval_id)
    if as_json:
        return emit_json(found)
    runs = islice(client.evals.runs.list(eval_id, limit=min(limit, 100), order="desc"), limit)
    console.print(facts([("id", found.id), ("name", found.name), ("created", when(found.created_at))]))
    rows = ((run.id, status(run.status), run.name, run.model, _outcome(run), when(run.created_at)) for run in runs)
    console.print(table(("run", "status", "name", "model", "passed", "created"), rows, empty="No runs yet."))


@app.command("run")
def start_run(
    ctx: typer.Context,
    eval_id: EvalId,
    rows: Annotated[str, typer.Argument(help="JSONL with an `item` a line, a file's id, or a run's body as .json.")],
    model: Annotated[str | None, typer.Option(help="That answers; else the rows' own samples are graded.")] = None,
    prompt: Annotated[str, typer.Option(help="What it is asked: a template, or `item.NAME`.")] = "item.input",
    system: Annotated[str | None, typer.Option(help="A system message before a template.")] = None,
    name: Annotated[str | None, typer.Option(help="By default the model's.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="`KEY=VALUE`; may be given several times.")] = None,
    follow_it: Annotated[bool, typer.Option("--watch", help="Stay until the run has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Run an eval on rows, uploading a file that is given by path."""
    client = client_of(ctx)
    body: dict[str, Any] = {"name": name, "metadata": pairs(metadata)}
    body = {key: value for key, value in body.items() if value}
    if rows.endswith(".json") and (path := local_path(rows)) is not None:
        body = json.loads(path.read_text("utf-8-sig")) | body
    else:
        body["data_source"] = _data_source(file_id_of(client, rows, "evals"), model, prompt, system)
    run = client.evals.runs.create(eval_id, **body)
    if follow_it:
        return _watch(client, run, as_json)
    tell(run, as_json, run.id)


def _data_source(file_id: str, model: str | None, prompt: str, system: str | None) -> dict[str, Any]:
    source = {"type": "file_id", "id": file_id}
    if model is None:
        return {"type": "jsonl", "source": source}
    messages: dict[str, Any] = {"type": "item_reference", "item_reference": prompt}
    if "{{" in prompt or system is not None:
        before = [{"role": "system", "content": system}] if system else []
        messages = {"type": "template", "template": [*before, {"role": "user", "content": prompt}]}
    return {"type": "completions", "source": source, "model": model, "input_messages": messages}


@app.command("watch")
def watch_run(ctx: typer.Context, run_id: RunId, eval_id: OfEval = None, as_json: Json = False) -> None:
    """Follow a run to its end; exit code 1 when it is not completed. With --json, one line a change."""
    client = client_of(ctx)
    _watch(client, _find(client, run_id, eval_id), as_json)


@app.command()
def cancel(ctx: typer.Context, run_id: RunId, eval_id: OfEval = None, as_json: Json = False) -> None:
    """Cancel a run; what was graded until then stays."""
    client = client_of(ctx)
    run = client.evals.runs.cancel(run_id, eval_id=_find(client, run_id, eval_id).eval_id)
    tell(run, as_json, f"{run.id} is {run.status}.")


@app.command()
def results(
    ctx: typer.Context,
    run_id: RunId,
    eval_id: OfEval = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only the rows that did not pass.")] = False,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """Show what came of a run's rows: the answer, and the score of each criterion."""
    client = client_of(ctx)
    run = _find(client, run_id, eval_id)
    listed = client.evals.runs.output_items.list(run_id, eval_id=run.eval_id, limit=100)
    found = list(islice((item for item in listed if not failed or item.status != "pass"), limit))
    if as_json:
        return emit_json(found)
    _show(run)
    rows = ((str(item.datasource_item_id), status(item.status), _answer(item), _scores(item)) for item in found)
    console.print(table((">row", "status", "answer", "scores"), rows, empty="No such rows."))


def _find(client: "OpenAI", run_id: str, eval_id: str | None) -> Any:
    """A run is found below its eval: all are looked through when it is not given."""
    if eval_id is not None:
        return client.evals.runs.retrieve(run_id, eval_id=eval_id)
    for each in client.evals.list(limit=100, order="desc"):
        for run in client.evals.runs.list(each.id, limit=100, order="desc"):
            if run.id == run_id:
                return run
    raise CommandFailed(f"There is no run {run_id} in this project.")


def _watch(client: "OpenAI", run: Any, as_json: bool) -> None:
    def look() -> Any:
        return client.evals.runs.retrieve(run.id, eval_id=run.eval_id)

    run = follow_rows(look, _rows, UNFINISHED, f"tunery evals watch {run.id}", as_json=as_json)
    if not as_json:
        _show(run)
    if run.status != "completed":
        raise typer.Exit(1)


def _rows(run: Any) -> Rows:
    counts = run.result_counts
    begun_at = run.started_at if run.status == "in_progress" else None
    return Rows(counts.passed + counts.failed + counts.errored, counts.total, begun_at)


def _outcome(run: Any) -> str:
    counts = run.result_counts
    errored = f", {counts.errored:,} errored" if counts.errored else ""
    return f"{counts.passed:,} of {counts.total:,}{errored}" if counts.total else ""


def _show(run: Any) -> None:
    shown = [
        ("id", run.id),
        ("status", status(run.status)),
        ("model", run.model),
        ("passed", _outcome(run)),
        *((each.testing_criteria, f"{each.passed:,} passed, {each.failed:,} failed") for each in _criteria(run)),
        *((f"tokens of {each.run_model_name}", f"{each.total_tokens:,}") for each in run.per_model_usage or ()),
        ("report", run.report_url),
        ("error", run.error.message if run.error else ""),
    ]
    console.print(facts([(name, value) for name, value in shown if value]))


def _criteria(run: Any) -> list[Any]:
    return run.per_testing_criteria_results or []


def _answer(item: Any) -> str:
    if item.sample.error is not None:
        return item.sample.error.message
    return " ".join((item.sample.output[0].content or "").split())[:200] if item.sample.output else ""


def _scores(item: Any) -> str:
    """By the criteria's own names, which stand before an id of 36 characters."""
    return ", ".join(f"{result.name[:-37]} {result.score:g}" for result in item.results)
