"""`tunery files`: training data on the server."""

import base64
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import typer

from tunery import atomic
from tunery.cli.connection import CommandFailed, client_of, post_own
from tunery.cli.output import Json, Limit, console, emit_json, facts, notes, pairs, status, table, tell, when
from tunery.texts.amounts import size

if TYPE_CHECKING:
    from openai import OpenAI

app = typer.Typer(no_args_is_help=True, help="Upload, list, download and delete files.")

Moment = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="UTC.")]
FileId = Annotated[str, typer.Argument(help="A file's id, `file-…`.")]


@app.command()
def upload(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A JSONL file.")],
    purpose: Annotated[str, typer.Option(help="What it is for.")] = "fine-tune",
    as_json: Json = False,
) -> None:
    """Upload a file and print its id."""
    with path.open("rb") as file:
        uploaded = client_of(ctx).files.create(file=file, purpose=purpose)  # type: ignore[arg-type]
    tell(uploaded, as_json, uploaded.id)


@app.command()
def distill(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option(help="Only answers of this model.")] = None,
    api: Annotated[Literal["chat", "responses"] | None, typer.Option(help="Only those through this API.")] = None,
    since: Moment = None,
    until: Moment = None,
    metadata: Annotated[list[str] | None, typer.Option(help="`KEY=VALUE`; may be given several times.")] = None,
    search: Annotated[str, typer.Option(help="Only answers with this text in question or answer.")] = "",
    ids: Annotated[list[str] | None, typer.Option("--id", help="These, in place of all that match.")] = None,
    name: Annotated[str, typer.Option(help="Of the new file.")] = "answers.jsonl",
    as_json: Json = False,
) -> None:
    """Make a training file of stored completions and responses, and print its id.

    What has no answer, failed or was cut off is left out and counted. The dashboard's page of stored answers does the
    same, and lets you correct answers.
    """
    body = {
        "model": model,
        "api": api,
        "since": _unix(since),
        "until": _unix(until),
        "metadata": pairs(metadata) or {},
        "search": search,
        "ids": ids,
        "filename": name,
    }
    tell_dataset(post_own(client_of(ctx), "/stored_answers/dataset", body), as_json)


def tell_dataset(made: dict[str, Any], as_json: bool) -> None:
    """Of a training file that was made of answers: its id, and on standard error what became of them."""
    tell(made, as_json, made["file"]["id"])
    if not as_json:
        notes.print(f"{made['num_rows']:,} rows in {made['file']['filename']}.")
        for left in made["left_out"]:
            notes.print(f"{left['count']:,} left out: {left['reason'].replace('_', ' ')}")


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.replace(tzinfo=UTC).timestamp())


@app.command("list")
def list_files(
    ctx: typer.Context,
    purpose: Annotated[str | None, typer.Option(help="Only files of this purpose.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List files, newest first."""
    files = client_of(ctx).files
    page = files.list(limit=min(limit, 1000), purpose=purpose) if purpose else files.list(limit=min(limit, 1000))
    found = list(islice(page, limit))
    rows = ((f.id, f.filename, f.purpose, size(f.bytes), status(f.status), when(f.created_at)) for f in found)
    tell(found, as_json, table(("id", "name", "purpose", ">size", "status", "created"), rows, empty="No files."))


@app.command()
def get(ctx: typer.Context, file_id: FileId, as_json: Json = False) -> None:
    """Show one file."""
    found = client_of(ctx).files.retrieve(file_id)
    if as_json:
        return emit_json(found)
    pairs = [
        ("id", found.id),
        ("name", found.filename),
        ("purpose", found.purpose),
        ("size", size(found.bytes)),
        ("status", status(found.status)),
        ("created", when(found.created_at)),
        ("expires", when(found.expires_at) or "never"),
    ]
    console.print(facts(pairs))


@app.command()
def download(
    ctx: typer.Context,
    file_id: FileId,
    to: Annotated[Path | None, typer.Option("--to", "-o", help="Where to; standard output when not given.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Leave a result file in base64, as the API sends it.")] = False,
) -> None:
    """Download a file's content. Result files come as readable CSV."""
    client = client_of(ctx)
    is_encoded = not raw and client.files.retrieve(file_id).purpose == "fine-tune-results"
    num_bytes = sum(len(piece) for piece in copied(client, file_id, to, is_encoded=is_encoded))
    if to is not None:
        notes.print(f"{to} ({size(num_bytes)})")


def copied(client: "OpenAI", file_id: str, to: Path | None, *, is_encoded: bool = False) -> Iterator[bytes]:
    """The pieces of a file's content, each once it is written: to `to`, which is whole or as it was, or to standard
    output. `is_encoded`: what comes is base64, of a small file."""
    with client.files.with_streaming_response.content(file_id) as content, _open(to) as out:
        pieces = _arriving(content.iter_bytes())
        for piece in [base64.b64decode(b"".join(pieces))] if is_encoded else pieces:
            out.write(piece)
            yield piece


def _arriving(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except Exception as exc:  # of the library below the SDK, which is httpx or another
        raise CommandFailed("The server went away in the middle of the file. Run the command again.") from exc


@contextmanager
def _open(to: Path | None) -> Iterator[BinaryIO]:
    if to is None:
        yield sys.stdout.buffer
    elif to.exists() and not to.is_file():  # such as /dev/null, which is to stay what it is
        with to.open("wb") as out:
            yield out
    else:
        with atomic.replacing(to.resolve()) as part, part.open("wb") as out:
            yield out


@app.command()
def delete(ctx: typer.Context, file_id: FileId, as_json: Json = False) -> None:
    """Delete a file."""
    deleted = client_of(ctx).files.delete(file_id)
    tell(deleted, as_json, f"Deleted {deleted.id}.")


def local_path(given: str) -> Path | None:
    """None for what is taken for an id, which the server judges."""
    path = Path(given)
    if path.is_file():
        return path
    if path.suffix or "/" in given:
        raise typer.BadParameter(f"There is no file {given}.")
    return None


def file_id_of(client: "OpenAI", given: str, purpose: str) -> str:
    """Of a file that is uploaded, or is uploaded now for this purpose."""
    path = local_path(given)
    if path is None:
        return given
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose=purpose)  # type: ignore[arg-type]
    notes.print(f"Uploaded {path.name} as {uploaded.id}.")
    return uploaded.id
