"""Where the commands read from and write to: the old account, the bundle, this installation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn

from tunery.cli.output import Bar, notes

if TYPE_CHECKING:
    from openai import OpenAI

OPENAI = "https://api.openai.com/v1"
DEFAULT_BUNDLE = Path("openai-export")

SourceUrl = Annotated[str, typer.Option("--source-url", help="The old account's API.", envvar="MIGRATE_SOURCE_URL")]
SourceKey = Annotated[
    str,
    typer.Option(
        "--source-key",
        envvar=["MIGRATE_SOURCE_KEY", "OPENAI_API_KEY"],
        show_envvar=True,
        help="The old account's key; asked for when absent. Used for this run only: neither stored nor logged.",
    ),
]
MaxTokens = Annotated[int, typer.Option(help="The longest answer.", min=1)]
BundleDir = Annotated[Path, typer.Option("--to", help="The bundle: a folder of plain files.", file_okay=False)]


def source_client(url: str, key: str) -> "OpenAI":
    from openai import OpenAI

    return OpenAI(base_url=url, api_key=key or typer.prompt("Key of the old account", hide_input=True, err=True))


class Bars:
    """A progress bar with ETA for each kind of thing; silent where the output is no terminal."""

    def __init__(self) -> None:
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=notes,
            transient=True,
            disable=not notes.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, kind: str, done: int, total: int) -> None:
        if kind not in self._tasks:
            self._tasks[kind] = self._bar.add_task(kind, total=total)
        self._bar.update(self._tasks[kind], completed=done, total=total)
