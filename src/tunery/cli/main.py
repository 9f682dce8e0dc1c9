"""The root command, and the one place that turns an error into a sentence and an exit code.

0: done. 1: it did not work, the message says why. 2: the command line was wrong.
"""

import sys
import traceback
from typing import Annotated

import typer

from tunery import __version__
from tunery.cli import (
    batches,
    chat,
    data,
    demo,
    doctor,
    evals,
    files,
    improve,
    jobs,
    keys,
    migrate,
    models,
    serve,
    usage,
    weights,
)
from tunery.cli.connection import CommandFailed, Connection
from tunery.cli.output import notes, styled

app = typer.Typer(
    name="tunery",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Fine-tune your own models behind OpenAI's API.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tunery {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    base_url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="The server's address with /v1; by default this machine's.")
    ] = "",
    api_key: Annotated[
        str, typer.Option(envvar=["TUNERY_API_KEY", "OPENAI_API_KEY"], show_envvar=True, help="A key of the server.")
    ] = "",
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    ctx.obj = Connection(base_url, api_key)


app.command()(serve.serve)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.add_typer(files.app, name="files")
app.add_typer(jobs.app, name="jobs")
app.command()(improve.improve)
app.add_typer(batches.app, name="batches")
app.add_typer(evals.app, name="evals")
app.add_typer(data.app, name="data")
models.app.command()(weights.export)
models.app.command("import")(weights.import_)
app.add_typer(models.app, name="models")
app.command()(chat.chat)
app.add_typer(keys.app, name="keys")
app.command()(usage.usage)
app.command()(usage.costs)
app.add_typer(migrate.app, name="migrate")


def main() -> None:
    try:
        app()
    except Exception as exc:
        notes.print(styled("[red]Error:[/red] {}", explain(exc)), soft_wrap=True)
        sys.exit(1)


def explain(exc: Exception) -> str:
    """One sentence for people. An error that nobody foresaw is a bug here: its place is told, for the report."""
    from openai import APIConnectionError, APIStatusError, OpenAIError

    from tunery.domain.errors import TuneryError
    from tunery.settings import SettingsError

    if isinstance(exc, APIConnectionError):
        return f"No server answers at {exc.request.url}. Is `tunery serve` running?"
    if isinstance(exc, APIStatusError):
        body = exc.body if isinstance(exc.body, dict) else {}
        return str(body.get("message") or exc.message)
    if isinstance(exc, CommandFailed | TuneryError | OpenAIError | SettingsError):
        return str(exc)
    if isinstance(exc, OSError):
        return f"{exc.filename}: {exc.strerror}." if exc.filename and exc.strerror else str(exc)
    where = traceback.extract_tb(exc.__traceback__)[-1]
    return f"{type(exc).__name__}: {exc} ({where.filename}:{where.lineno}). This is a bug in tunery."


if __name__ == "__main__":
    main()
