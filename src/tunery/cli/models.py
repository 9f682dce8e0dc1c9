"""`tunery models`: what can be called, and the base weights on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.progress import TaskID

from tunery import private
from tunery.cli.connection import catalog_by_name, client_of, weights_of
from tunery.cli.output import Json, console, doing, emit_json, facts, notes, table, tell, transfer_bar, when
from tunery.models.catalog import Catalog
from tunery.models.sources import base
from tunery.models.sources import cache as sources
from tunery.settings import load_settings
from tunery.texts.amounts import size

app = typer.Typer(no_args_is_help=True, help="List, fetch and delete models.")

ModelName = Annotated[str, typer.Argument(help="A model's name, `ft:…` included.")]


@app.command("list")
def list_models(
    ctx: typer.Context,
    local: Annotated[bool, typer.Option("--local", help="This machine's base models, without a server.")] = False,
    as_json: Json = False,
) -> None:
    """List the models a server answers to, fine-tuned ones included."""
    if local:
        return _list_local(as_json)
    client = client_of(ctx)
    found = list(client.models.list())
    if as_json:
        return emit_json(found)
    known = catalog_by_name(client)
    rows = ((model.id, weights_of(known.get(model.id)), model.owned_by, when(model.created)) for model in found)
    console.print(table(("model", "weights", "owner", "created"), rows, empty="No models."))


def _list_local(as_json: bool) -> None:
    settings = load_settings()
    found = [
        {
            "name": model.name,
            "aliases": list(model.aliases),
            "source": model.source,
            "context_length": model.context_length,
            "training": model.training,
            "path": str(path) if (path := sources.cached(model.source, settings.models_dir)) else None,
        }
        for model in Catalog.load(settings.catalog)
    ]
    if as_json:
        return emit_json(found)
    rows = (
        (
            row["name"],
            ", ".join(row["aliases"]),
            row["source"],
            f"{row['context_length']:,}",
            "yes" if row["path"] else "no",
        )
        for row in found
    )
    console.print(table(("model", "also called", "weights", ">context", "here"), rows, empty="The catalog is empty."))


@app.command()
def get(ctx: typer.Context, name: ModelName, as_json: Json = False) -> None:
    """Show one model."""
    client = client_of(ctx)
    found = client.models.retrieve(name)
    if as_json:
        return emit_json(found)
    entry = catalog_by_name(client).get(name)
    names = [*entry["aliases"], *entry["same_weights"]] if entry else []
    told = [("model", found.id), ("weights", weights_of(entry)), ("the same as", ", ".join(names))]
    told += [("owner", found.owned_by), ("created", when(found.created))]
    console.print(facts([(label, value) for label, value in told if value]))


@app.command()
def delete(ctx: typer.Context, name: ModelName, as_json: Json = False) -> None:
    """Delete a fine-tuned model and its weights."""
    deleted = client_of(ctx).models.delete(name)
    tell(deleted, as_json, f"Deleted {deleted.id}.")


@app.command()
def pull(
    names: Annotated[list[str] | None, typer.Argument(help="Catalog names; all of them when none is given.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch base models into this machine's cache, so that the server starts without a network."""
    settings = load_settings()
    private.keep(settings.home)
    catalog = Catalog.load(settings.catalog)
    every = [*catalog.sources(), *catalog.sources(embeds=True)]
    wanted = dict.fromkeys(catalog.resolve(name).source for name in names) if names else every
    with download_bar() as report:
        paths = {source: str(sources.ensure(source, settings.models_dir, report)) for source in wanted}
    if as_json:
        return emit_json([{"source": source, "path": path} for source, path in paths.items()])
    for source, path in paths.items():
        console.print(f"{source}  {path}", soft_wrap=True)


@contextmanager
def download_bar(of: str = "Base model") -> Iterator[base.Progress]:
    """A progress bar that shows itself with the first report, since a cached model needs none; lines where no terminal
    is."""
    if not notes.is_terminal:
        with doing() as tell:
            yield lambda what, done, total: tell(f"{of}: {what}", _share(done, total))
        return
    bar = transfer_bar()
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int | None) -> None:
        if not tasks:
            bar.start()
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)

    try:
        yield report
    finally:
        bar.stop()


def _share(done: int, total: int | None) -> str:
    return f"{size(done)} of {size(total)}" if total else size(done) if done else ""
