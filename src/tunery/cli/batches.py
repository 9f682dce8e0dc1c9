"""`tunery batches`: files of requests, answered at half the price when the engine has time."""

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunery.cli.connection import CommandFailed, client_of, post_own
from tunery.cli.files import copied, file_id_of, local_path, tell_dataset
from tunery.cli.output import (
    Json,
    Limit,
    console,
    emit_json,
    facts,
    notes,
    pairs,
    status,
    table,
    tell,
    when,
)
from tunery.cli.watch import Rows, follow_rows
from tunery.domain.batches import UNFINISHED

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

app = typer.Typer(no_args_is_help=True, help="Answer files of requests at half the price.")

BatchId = Annotated[str, typer.Argument(help="A batch's id, `batch_…`.")]


@app.command()
def create(
    ctx: typer.Context,
    input_file: Annotated[str, typer.Argument(help="A JSONL file of requests, or the id of one that is uploaded.")],
    endpoint: Annotated[
        str | None, typer.Option(help="Such as /v1/chat/completions; by default the url of the file's first request.")
    ] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="`KEY=VALUE`; may be given several times.")] = None,
    follow_it: Annotated[bool, typer.Option("--watch", help="Stay until the batch has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Create a batch, uploading a file that is given by path."""
    client, url = client_of(ctx), endpoint or _url(input_file)
    body: dict[str, Any] = {"endpoint": url, "completion_window": "24h", "metadata": pairs(metadata)}
    batch = client.batches.create(input_file_id=file_id_of(client, input_file, "batch"), **body)
    if follow_it:
        return _watch(client, batch.id, as_json)
    tell(batch, as_json, batch.id)


def _url(given: str) -> str:
    """That the first request names. Of a file that is uploaded already it is not known."""
    path = local_path(given)
    if path is None:
        return "/v1/chat/completions"
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    try:
        return str(json.loads(first)["url"])
    except (ValueError, KeyError, TypeError):
        raise CommandFailed(f"The first line of {path} is no request with a url: give --endpoint.") from None


@app.command("list")
def list_batches(ctx: typer.Context, limit: Limit = 20, as_json: Json = False) -> None:
    """List batches, newest first."""
    found = list(islice(client_of(ctx).batches.list(limit=min(limit, 100)), limit))
    rows = (
        (batch.id, status(batch.status), batch.model or "", batch.endpoint, _progress(batch), when(batch.created_at))
        for batch in found
    )
    columns = ("id", "status", "model", "endpoint", ">progress", "created")
    tell(found, as_json, table(columns, rows, empty="No batches yet: `tunery batches create FILE`."))


@app.command()
def get(ctx: typer.Context, batch_id: BatchId, as_json: Json = False) -> None:
    """Show one batch, and what is wrong with its file."""
    batch = client_of(ctx).batches.retrieve(batch_id)
    if as_json:
        return emit_json(batch)
    _show(batch)


@app.command("watch")
def watch_batch(ctx: typer.Context, batch_id: BatchId, as_json: Json = False) -> None:
    """Follow a batch to its end; exit code 1 when it is not completed. With --json, one line a change."""
    _watch(client_of(ctx), batch_id, as_json)


@app.command()
def cancel(ctx: typer.Context, batch_id: BatchId, as_json: Json = False) -> None:
    """Cancel a batch; what was answered until then is delivered."""
    batch = client_of(ctx).batches.cancel(batch_id)
    tell(batch, as_json, f"{batch.id} is {batch.status}.")


@app.command()
def results(
    ctx: typer.Context,
    batch_id: BatchId,
    errors: Annotated[bool, typer.Option("--errors", help="The requests that failed, and why.")] = False,
    to: Annotated[Path | None, typer.Option("--to", "-o", help="Where to; standard output when not given.")] = None,
) -> None:
    """Download the answers of a batch, as JSONL; one with its custom_id a line."""
    client = client_of(ctx)
    batch = client.batches.retrieve(batch_id)
    file_id = batch.error_file_id if errors else batch.output_file_id
    if file_id is None:
        what = "failed requests" if errors else "answers"
        raise CommandFailed(f"There are no {what} of {batch.id}, which is {batch.status}.")
    num_lines = sum(piece.count(b"\n") for piece in copied(client, file_id, to))
    if to is not None:
        notes.print(f"{to} ({num_lines:,} lines)")


@app.command()
def distill(
    ctx: typer.Context,
    batch_id: BatchId,
    name: Annotated[str | None, typer.Option(help="Of the new file; by default named after the batch.")] = None,
    as_json: Json = False,
) -> None:
    """Make a training file of a batch's answers, and print its id.

    Each row has the prompt of a request and the answer to it. What failed, was cut off or has no answer is left out
    and counted.
    """
    made = post_own(client_of(ctx), f"/batches/{batch_id}/dataset", {"filename": name})
    tell_dataset(made, as_json)


def _watch(client: "OpenAI", batch_id: str, as_json: bool) -> None:
    again = f"tunery batches watch {batch_id}"
    batch = follow_rows(lambda: client.batches.retrieve(batch_id), _rows, UNFINISHED, again, as_json=as_json)
    if not as_json:
        _show(batch)
    if batch.status != "completed":
        raise typer.Exit(1)


def _rows(batch: "Batch") -> Rows:
    """Those that have a result, and all."""
    counts = batch.request_counts
    begun_at = batch.in_progress_at if batch.status == "in_progress" else None
    return Rows(counts.completed + counts.failed, counts.total, begun_at) if counts else Rows(0, 0, None)


def _progress(batch: "Batch") -> str:
    rows = _rows(batch)
    return f"{rows.done:,} of {rows.total:,}" if rows.total else ""


def _show(batch: "Batch") -> None:
    failed = batch.request_counts.failed if batch.request_counts else 0
    shown = [
        ("id", batch.id),
        ("status", status(batch.status)),
        ("model", batch.model or ""),
        ("endpoint", batch.endpoint),
        ("input file", batch.input_file_id),
        ("requests", _progress(batch) + (f", {failed:,} failed" if failed else "")),
        ("left", _rows(batch).left),
        ("tokens", f"{batch.usage.input_tokens:,} in, {batch.usage.output_tokens:,} out" if batch.usage else ""),
        ("answers", batch.output_file_id or ""),
        ("failed requests", batch.error_file_id or ""),
        ("created", when(batch.created_at)),
        ("expires", when(batch.expires_at) if batch.status in UNFINISHED else ""),
    ]
    console.print(facts([(name, value) for name, value in shown if value]))
    for error in (batch.errors.data if batch.errors else None) or ():
        console.print(f"line {error.line}: {error.message}" if error.line else error.message or "")
