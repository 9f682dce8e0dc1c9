"""`inventory` and `import`: what is there, and bringing it out."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tunery.cli.migrate.options import (
    DEFAULT_BUNDLE,
    OPENAI,
    Bars,
    BundleDir,
    SourceKey,
    SourceUrl,
    source_client,
)
from tunery.cli.output import Json, console, emit_json, notes, styled, table

if TYPE_CHECKING:
    from tunery.migrate.fetch import Fetched
    from tunery.migrate.load import Loaded

SOON_DAYS = 14


def inventory(
    source_key: SourceKey = "",
    source_url: SourceUrl = OPENAI,
    deadlines: Annotated[
        Path | None, typer.Option(help="A TOML table of shutdown dates in place of the shipped one.", exists=True)
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the old account holds, what depends on what, and the days left. Reads only."""
    from tunery.migrate.deadlines import load_deadlines
    from tunery.migrate.inventory import take_inventory
    from tunery.migrate.source import Source

    source = Source(source_client(source_url, source_key))
    with notes.status("Listing jobs, models, files, evals and stored completions…"):
        found = take_inventory(source, load_deadlines(deadlines), now=time.time())
    if as_json:
        return emit_json({**found.as_json(), "items": [{**vars(item), "ends": str(item.ends)} for item in found.items]})
    rows = (
        (item.kind, item.id, item.detail, ", ".join(item.depends_on), _days(item.days_left))
        for item in sorted(found.items, key=lambda item: (item.days_left is None, item.days_left or 0))
    )
    console.print(table(("kind", "id", "what", "needs", ">days left"), rows, empty="The account holds nothing."))
    if found.training_ends_in is not None:
        notes.print("New fine-tuning jobs there:", _days(found.training_ends_in), "days left.")
    for kind, why in found.closed.items():
        notes.print(styled("[yellow]{} could not be listed:[/yellow] {}", kind, why))
    notes.print("Next: `tunery migrate openai import`.")


def _days(left: int | None) -> Text:
    if left is None:
        return Text()
    style = "red" if left <= SOON_DAYS else "yellow"
    return Text(str(left), style if left <= 2 * SOON_DAYS else "")


def import_(
    source_key: SourceKey = "",
    source_url: SourceUrl = OPENAI,
    to: BundleDir = DEFAULT_BUNDLE,
    project: Annotated[str, typer.Option(help="The project that will own it here; by default the first.")] = "",
    only_bundle: Annotated[bool, typer.Option("--only-bundle", help="Fill the folder; load nothing here.")] = False,
    from_bundle: Annotated[
        bool, typer.Option("--from-bundle", help="Load the folder; ask the source nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring out files, jobs, evals and stored completions, and load them into this installation.

    It may be stopped and started again at any time: what is there is not fetched twice. Run it on the server's
    machine, or with the server's settings; the server may be running meanwhile.
    """
    fetched = None if from_bundle else _fetch(source_url, source_key, to)
    loaded = None if only_bundle else _load(to, project)
    if as_json:
        emit_json({"bundle": str(to), "fetched": _as_json(fetched), "loaded": _as_json(loaded)})
    else:
        _tell(to, fetched, loaded)
    if fetched is not None and fetched.failures:
        raise typer.Exit(1)


def _fetch(url: str, key: str, to: Path) -> "Fetched":
    from tunery.migrate.bundle import Bundle
    from tunery.migrate.fetch import fetch_all
    from tunery.migrate.source import Source

    bundle = Bundle.create(to, source=url, now=int(time.time()))
    with Bars() as bars:
        return fetch_all(Source(source_client(url, key)), bundle, progress=bars.tell)


def _load(folder: Path, project: str) -> "Loaded":
    from tunery.migrate.bundle import Bundle
    from tunery.migrate.load import load_all, open_target
    from tunery.settings import load_settings

    with Bars() as bars:
        return load_all(Bundle.open(folder), open_target(load_settings(), project), progress=bars.tell)


def _as_json(result: "Fetched | Loaded | None") -> dict[str, object] | None:
    if result is None:
        return None
    named = dict(vars(result))
    for name in ("failures", "skipped"):
        if name in named:
            named[name] = {f"{kind}/{ident}": why for (kind, ident), why in named[name].items()}
    return named


def _tell(to: Path, fetched: "Fetched | None", loaded: "Loaded | None") -> None:
    kinds = ("files", "jobs", "evals", "completions")
    rows = []
    for kind in kinds:
        brought = (str(fetched.new.get(kind, 0)), str(fetched.kept.get(kind, 0))) if fetched else ("", "")
        put = (str(loaded.new.get(kind, 0)), str(loaded.kept.get(kind, 0))) if loaded else ("", "")
        rows.append((kind, *brought, *put))
    console.print(table(("", ">fetched", ">had", ">loaded", ">already here"), rows, empty=""))
    for kind, why in (fetched.closed if fetched else {}).items():
        notes.print(styled("[yellow]{} are closed to this account:[/yellow] {}", kind, why))
    for title, failures in (
        ("failed", fetched.failures if fetched else {}),
        ("not loaded", loaded.skipped if loaded else {}),
    ):
        for (kind, ident), why in failures.items():
            notes.print(styled("[yellow]{}:[/yellow] {}/{}: {}", title, kind, ident, why))
    if fetched and fetched.failures:
        notes.print("Run the command again to fetch what failed.")
    notes.print(f"The bundle is in {to}. Next: `tunery migrate openai capture MODEL FILE`.")
