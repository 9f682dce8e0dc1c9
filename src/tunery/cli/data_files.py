"""What `tunery data` writes, and the bar it shows while it reads."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import typer

from tunery import atomic
from tunery.cli.output import transfer_bar

BAR_AFTER_S = 1.0


@contextmanager
def late_bar(title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A progress bar that shows itself only when the work lasts longer than a second."""
    bar = transfer_bar()
    task = bar.add_task(title, total=total_bytes)
    begun = time.monotonic()

    def advance(num_bytes: int) -> None:
        bar.update(task, completed=num_bytes)
        if num_bytes < total_bytes and time.monotonic() - begun > BAR_AFTER_S:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """The file appears when it is complete; a command that breaks off leaves nothing half-written."""
    with atomic.replacing(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as out:
        yield out


def refuse_overwriting(source: Path, *targets: Path, force: bool) -> None:
    for target in targets:
        if target.resolve() == source.resolve():
            raise typer.BadParameter(f"{target} is the file to be read")
        if target.exists() and not force:
            raise typer.BadParameter(f"{target} is there already: move it, or overwrite it with --force")
