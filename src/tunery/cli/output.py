"""What commands print: tables for people, JSON for programs."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tunery.logs import CONTROL, escaped
from tunery.texts import amounts, translator

TOLD_EVERY_S = 5.0  # what takes long, where no terminal shows a spinner
PIPED_WIDTH = 240  # a program that reads lines must not meet cut-off ids

# Names, messages and answers may hold `[final]` or `:smile:`: nothing printed is markup but a `styled` template.
_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}


class PlainConsole(Console):
    """rich's, on which a name or an answer moves no cursor and sets no title: its control characters are shown."""

    def render_str(self, text: str, **values: Any) -> Text:
        return super().render_str(_shown(text), **values)  # here, so that it has its room

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_shown(segment.text), segment.style)


def _shown(text: str) -> str:
    return text if text.isprintable() else "\n".join(escaped(line, CONTROL) for line in text.split("\n"))


console = PlainConsole(width=None if sys.stdout.isatty() else PIPED_WIDTH, **_PLAIN)
notes = PlainConsole(stderr=True, width=None if sys.stderr.isatty() else PIPED_WIDTH, **_PLAIN)
"""Progress and remarks: not part of what a program reads."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")]

STATUS_STYLES = {
    "succeeded": "green",
    "completed": "green",
    "processed": "green",
    "running": "cyan",
    "in_progress": "cyan",
    "finalizing": "cyan",
    "queued": "blue",
    "validating": "blue",
    "validating_files": "blue",
    "paused": "yellow",
    "cancelling": "yellow",
    "failed": "red",
    "error": "red",
    "expired": "red",
    "cancelled": "dim",
}


def styled(template: str, *values: object) -> Text:
    """`styled("[red]Error:[/red] {}", why)`: the template is rich's markup, the values are text as they stand."""
    return Text.from_markup(template.format(*(escape(_shown(str(value))) for value in values)), emoji=False)


class Bar(Progress):
    """rich's, which writes an empty line at its end even when it was never shown."""

    def stop(self) -> None:
        if self.live.is_started:
            super().stop()


def transfer_bar(amount: ProgressColumn | None = None) -> Bar:
    """Of bytes, with the time left. `amount`: in their place."""
    description = TextColumn("{task.description}", markup=False)
    return Bar(description, BarColumn(), amount or DownloadColumn(), TimeRemainingColumn(), console=notes)


@contextmanager
def doing() -> Iterator[Callable[..., None]]:
    """Gives `tell(what, detail="")` for what the command waits for. On a terminal it stands beside a spinner; elsewhere
    it is a line when `what` changes, and one every few seconds while it lasts."""
    if notes.is_terminal:
        with notes.status("Starting …") as spinner:
            yield lambda what, detail="": spinner.update(escape(f"{what} {detail}".rstrip() + " …"))
        return
    work, ended = _Work(), threading.Event()
    thread = threading.Thread(target=_repeat, args=(work, ended), daemon=True)
    thread.start()
    try:
        yield work.tell
    finally:
        ended.set()
        thread.join()


@dataclass
class _Work:
    what: str = ""
    detail: str = ""
    since: float = 0.0  # time.monotonic()

    def tell(self, what: str, detail: str = "") -> None:
        is_new, self.detail = what != self.what, detail
        if is_new:
            self.what, self.since = what, time.monotonic()
            notes.print(f"{what} …")


def _repeat(work: _Work, ended: threading.Event) -> None:
    while not ended.wait(TOLD_EVERY_S):
        lasted = time.monotonic() - work.since
        if work.what and lasted >= TOLD_EVERY_S / 2:
            told = [work.detail, duration(lasted)]
            notes.print(f"{work.what} … {', '.join(filter(None, told))}")


def emit_json(value: Any) -> None:
    """`value` may hold the client's models at any depth."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=lambda model: model.to_dict())
    sys.stdout.write(text + "\n")


def tell(value: Any, as_json: bool, text: RenderableType) -> None:
    """The value for programs, or `text` for people."""
    if as_json:
        emit_json(value)
    else:
        console.print(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[RenderableType]], *, empty: str) -> RenderableType:
    """A plain table, or the sentence `empty` when there is no row. Columns that start with `>` are numbers."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        found.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        found.add_row(*row)
    return found if found.row_count else empty


def facts(pairs: Iterable[tuple[str, RenderableType]]) -> Table:
    """One object: a line a fact."""
    found = Table(box=None, show_header=False, pad_edge=False)
    found.add_column(style="dim")
    found.add_column(overflow="fold")
    for name, value in pairs:
        found.add_row(name, value)
    return found


def status(text: str) -> Text:
    return Text(text, STATUS_STYLES.get(text, ""))


def when(unix_s: float | None) -> str:
    return datetime.fromtimestamp(unix_s).strftime("%Y-%m-%d %H:%M") if unix_s else ""


def duration(seconds: float) -> str:
    """In English, as all of the command line."""
    return amounts.duration(seconds, translator("en"))


def pairs(given: list[str] | None) -> dict[str, str] | None:
    """`KEY=VALUE` texts of --metadata."""
    for text in given or ():
        if "=" not in text:
            raise typer.BadParameter(f"--metadata must be KEY=VALUE, not {text!r}.")
    return {text.partition("=")[0]: text.partition("=")[2] for text in given} if given else None
