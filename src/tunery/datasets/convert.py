"""One look at a stranger's table, or its conversion: `python -m tunery.datasets.convert` reads a request at its stdin
and answers in JSON lines, `{"share": …}` while it works and `{"made": …}` or `{"error": …}` at the end.

A process of its own, with bounds on time and memory: a small file may unpack to an enormous one, and a large one would
hold up everybody else's requests. `converting` is the side of whoever asks.
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from tunery.chat.examples import format_of
from tunery.datasets.lines import Line
from tunery.datasets.parse import parse_line
from tunery.datasets.pool import end_with_parent
from tunery.datasets.prepare import SAMPLE, Mapping, Skipped, UnclearColumns, no_rows, prepare
from tunery.datasets.report import problem_dict
from tunery.datasets.tables import Record, Table, open_table
from tunery.domain.errors import InvalidRequest, ServerFault
from tunery.domain.files import MAX_FILE_BYTES
from tunery.texts import restored, say, with_texts

MAX_SECONDS = 600
MAX_MEMORY_BYTES = 2 * 1024**3
OUT_OF_MEMORY = 75  # the exit status
MAX_SHOWN = 20  # rows of the table, from its beginning
MAX_PROBLEMS = 200  # rows with one are shown; all are counted
_CELL = 200  # characters of a cell that are shown
_TELL_EVERY_S = 0.3
_LOOK_EVERY = 256  # rows


@dataclass(frozen=True)
class Request:
    path: str
    name: str  # as its owner calls it
    encoding: str = ""
    sheet: str = ""
    header_row: int = 0
    columns: dict[str, str] | None = None  # a Mapping; None: guessed
    system: str = ""
    most: int | None = None  # rows of the table to look at; None: all
    target: str = ""  # the file to be written; "": none
    max_memory_bytes: int = MAX_MEMORY_BYTES


@dataclass
class Looked:
    """What a table makes, as JSON."""

    kind: str
    encoding: str
    sheets: list[str]
    sheet: str
    header_row: int
    notes: list[dict[str, Any]]
    columns: list[dict[str, Any]] = field(default_factory=list)
    mapping: dict[str, str] | None = None  # None: which columns are meant cannot be told
    num_rows: int = 0  # of the table, as far as it was read
    num_examples: int = 0
    num_left_out: int = 0
    num_errors: int = 0  # examples that a job would not accept
    is_whole: bool = False
    format: str | None = None  # of the first example
    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[dict[str, Any]] = field(default_factory=list)


# ---- whoever asks
def converting(request: Request) -> Generator[float, None, dict[str, Any]]:
    """Yields the share that is done, returns a Looked as a dictionary. Ends the process when it is closed. Raises
    InvalidRequest, or ServerFault when the process broke."""
    command = [sys.executable, "-m", "tunery.datasets.convert"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        clock = threading.Timer(MAX_SECONDS, process.kill)
        clock.daemon = True
        clock.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            with suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(json.dumps(asdict(request)))
            for line in process.stdout:
                told = json.loads(line)
                if "made" in told:
                    return told["made"]
                if "error" in told:
                    raise InvalidRequest(restored(told["error"]), param=told["param"], code=told["code"])
                yield told["share"]
            raise _ended(process.wait(), request.name)
        finally:
            clock.cancel()
            process.kill()


def _ended(status: int, name: str) -> Exception:
    """By a signal it was the bounds that ended it."""
    if status == OUT_OF_MEMORY:
        return InvalidRequest(say("table.too_large", name=name), param="file", code="table_too_large")
    if status < 0:
        return InvalidRequest(say("table.gave_up", minutes=MAX_SECONDS // 60), code="table_too_large")
    return ServerFault(say("error.table_process"))


# ---- the process
def main() -> int:
    """The exit status."""
    request = Request(**json.loads(sys.stdin.read()))
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    _bound_oneself(request.max_memory_bytes)

    def tell(**values: Any) -> None:
        channel.write(json.dumps(values) + "\n")
        channel.flush()

    try:
        tell(made=asdict(convert(request, lambda share: tell(share=share))))
    except InvalidRequest as exc:
        tell(error=exc.text, param=exc.param or "file", code=exc.code)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # without a word: there is no memory for one
    return 0


def _bound_oneself(max_memory_bytes: int) -> None:
    end_with_parent(os.getppid())
    os.nice(5)
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve gigabytes that they do not use
    for which, most in (
        (resource.RLIMIT_DATA, max_memory_bytes),
        (resource.RLIMIT_CPU, MAX_SECONDS),
    ):
        resource.setrlimit(which, (most, most))


def convert(request: Request, tell: Callable[[float], None]) -> Looked:
    """Reads the table and, with a target, writes it. Raises InvalidRequest."""
    wished = {"encoding": request.encoding, "sheet": request.sheet, "header_row": request.header_row}
    with open_table(Path(request.path), name=request.name, **wished) as table:  # type: ignore[arg-type]
        looked = Looked(table.kind, table.encoding, table.sheets, table.sheet, table.header_row, [])
        looked.notes = [with_texts({"message": note}) for note in table.notes]
        sample = list(islice(table.records, SAMPLE))
        looked.columns = _columns(sample)
        records = _bounded(chain(sample, table.records), request.most, looked, table, tell)
        mapping = Mapping(**request.columns) if request.columns else None
        try:
            prepared = prepare(records, mapping, system=request.system)
        except UnclearColumns:
            if request.target:
                raise
            looked.rows = [{"row": n, "cells": _cells(record)} for n, record in enumerate(sample[:MAX_SHOWN], 1)]
            return looked
        looked.mapping = asdict(prepared.mapping)
        with Path(request.target).open("wb") if request.target else nullcontext() as out:
            first = _go_through(prepared.outcomes(), looked, out, request.name)
        if request.target and not looked.num_examples:
            raise no_rows(first)
    return looked


def _bounded(
    records: Iterator[Record], most: int | None, looked: Looked, table: Table, tell: Callable[[float], None]
) -> Iterator[Record]:
    """At most so many; how far they are is told, and whether they were all."""
    told = time.monotonic()
    for record in records:
        if looked.num_rows == most:
            return
        looked.num_rows += 1
        if looked.num_rows % _LOOK_EVERY == 0 and time.monotonic() > told + _TELL_EVERY_S:
            told = time.monotonic()
            tell(table.share())
        yield record
    looked.is_whole = True


def _go_through(
    outcomes: Iterator[tuple[Record, dict[str, Any] | Skipped]], looked: Looked, out: BinaryIO | None, name: str
) -> Skipped | None:
    """Counts and keeps what is shown. Returns the first row that was left out."""
    first: Skipped | None = None
    size = 0
    for number, (record, made) in enumerate(outcomes, 1):
        shown: dict[str, Any] = {"row": number, "example": None, "problems": []}
        if isinstance(made, Skipped):
            first = first or made
            looked.num_left_out += 1
            shown |= {"problems": [with_texts({"message": made.reason})], "cells": _cells(record)}
        else:
            looked.num_examples += 1
            line = json.dumps(made, ensure_ascii=False)
            content = line.encode("utf-8", "backslashreplace")  # half a pair of surrogates stays JSON's escape
            size += len(content) + 1
            if size > MAX_FILE_BYTES:
                raise InvalidRequest(say("table.too_large", name=name), param="file", code="table_too_large")
            shown |= {"example": made, "problems": _check(content, number, looked)}
            if out is not None:
                out.write(content + b"\n")
        if number <= MAX_SHOWN:
            looked.rows.append(shown)
        elif shown["problems"] and len(looked.problems) < MAX_PROBLEMS:
            looked.problems.append(shown)
    return first


def _check(content: bytes, number: int, looked: Looked) -> list[dict[str, Any]]:
    """What `tunery data check` would say of it."""
    parsed = parse_line(Line(number, number, content, len(content)))
    if parsed.example is None:
        looked.num_errors += 1
    elif looked.format is None:
        looked.format = format_of(parsed.example)
    return [problem_dict(problem) for problem in parsed.problems]


def _columns(sample: list[Record]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for record in sample for name in record)
    shown = {name: [_short(record.get(name)) for record in sample] for name in names}
    return [{"name": name, "examples": [*filter(None, dict.fromkeys(cells))][:3]} for name, cells in shown.items()]


def _cells(record: Record) -> dict[str, str]:
    return {name: _short(value) for name, value in record.items()}


def _short(value: Any) -> str:
    text = "" if value is None else str(value)
    text = text if len(text) <= _CELL else f"{text[:_CELL]}…"
    return text.encode("utf-8", "replace").decode()


if __name__ == "__main__":
    sys.exit(main())
