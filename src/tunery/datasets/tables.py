"""Rows of CSV, TSV, JSON, JSONL, Parquet and XLSX files, one after the other, each a dictionary by column."""

import csv
import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, Literal, TextIO

from tunery.datasets.columns import num_telling
from tunery.datasets.encodings import (
    UTF_8,
    is_binary,
    is_latin,
    marked_encoding,
    narrow_encoding,
    wide_encoding,
)
from tunery.datasets.workbooks import Cells, Workbook, needs_packages
from tunery.domain.errors import InvalidRequest
from tunery.texts import Text, say

Record = dict[str, Any]
Kind = Literal["csv", "tsv", "json", "jsonl", "parquet", "xlsx"]
Numbered = Iterator[tuple[int, Cells]]
"""Rows of cells with the number of the line or row that they stand in."""

_PARQUET_ROWS = 1000
_CHUNK_BYTES = 1024 * 1024
_MAX_CELL = 64 * 1024 * 1024  # characters; csv's own limit of 131,072 is shorter than a document that someone pastes
_CONVERSATIONS = frozenset(("messages", "conversations"))  # keys of one row, not of a file
_HEAD = 20  # rows, among which the header stands
_SAMPLE = 64 * 1024  # characters, by which the delimiter is told
_DELIMITERS = (",", ";", "\t", "|")
_LINE_ENDS = {"csv": "", "tsv": "", "json": "\n", "jsonl": "\n"}  # a line of JSONL ends at a line feed alone
_TEXT_KINDS: dict[str, Kind] = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "jsonl"}
_ZIP, _PARQUET, _OLE = b"PK\x03\x04", b"PAR1", b"\xd0\xcf\x11\xe0"  # how files begin
TABLES = frozenset((*_TEXT_KINDS, ".parquet", ".xlsx")) - {".jsonl"}
"""Endings of files that are no training files, and may become one."""


@dataclass
class Table:
    """Use it as a context; `records` can be read once. They raise InvalidRequest, naming the line or row, when the file
    cannot be read as what it seemed to be."""

    name: str
    kind: Kind
    encoding: str = ""  # of text
    sheets: list[str] = field(default_factory=list)  # of a workbook
    sheet: str = ""
    header_row: int = 0  # 1-based, of a table of cells; 0: none was found, or the kind has none
    records: Iterator[Record] = field(default_factory=lambda: iter(()))
    notes: list[Text] = field(default_factory=list)  # what its owner should know
    share: Callable[[], float] = lambda: 0.0  # of the file that has been read, 0 to 1
    closing: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.close()


def open_table(path: Path, *, name: str = "", encoding: str = "", sheet: str = "", header_row: int = 0) -> Table:
    """By what the file holds, whatever its ending. `name`: as its owner calls it. Without `encoding`, `sheet` and
    `header_row` they are found out. Raises InvalidRequest when it is no table, or when these are not there."""
    name = name or path.name
    table = Table(name, kind_of(path, name))
    try:
        if table.kind == "xlsx":
            _open_workbook(table, path, sheet, header_row)
        elif table.kind == "parquet":
            _open_parquet(table, path)
        else:
            _open_text(table, path, encoding, header_row)
    except BaseException:
        table.closing.close()
        raise
    return table


def kind_of(path: Path, name: str) -> Kind:
    """Raises InvalidRequest for what is no table; where something can be done about it, it says what."""
    with path.open("rb") as file:
        head = file.read(_SAMPLE)
    if not head.strip():
        raise InvalidRequest(say("table.empty", name=name))
    if head.startswith(_PARQUET):
        return "parquet"
    if head.startswith(_ZIP):
        return _kind_of_archive(path, name)
    if head.startswith(_OLE):
        is_locked = "EncryptedPackage".encode("utf-16-le") in path.read_bytes()
        raise InvalidRequest(say("table.password" if is_locked else "table.old_excel", name=name))
    if is_binary(head) and not (marked_encoding(head) or wide_encoding(head)):
        raise InvalidRequest(say("table.not_a_table", name=name))
    begin = head.decode(marked_encoding(head) or wide_encoding(head) or "latin-1", "ignore").lstrip("\ufeff \t\r\n")
    if begin.startswith("<"):
        raise InvalidRequest(say("table.not_a_table", name=name))
    known = _TEXT_KINDS.get(Path(name).suffix.lower())
    if begin.startswith(("{", "[")):
        return known if known in ("json", "jsonl") else "jsonl"
    return known or "csv"


def looks_like_table(name: str, head: bytes) -> bool:
    """Whether a file that begins so is meant as a table, and not as a training file."""
    ending = Path(name).suffix.lower()
    if head.startswith((_ZIP, _PARQUET, _OLE)) or ending in TABLES - {".json"}:
        return True
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    is_lines = _is_json_object(begin.partition(b"\n")[0].decode("utf-8", "replace"))
    return begin.startswith(b"[") or (ending in (".json", ".txt") and not is_lines)


def _kind_of_archive(path: Path, name: str) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as exc:
        raise InvalidRequest(say("table.broken", name=name, kind="XLSX")) from exc
    if "xl/workbook.xml" in inside:
        return "xlsx"
    raise InvalidRequest(say("table.not_xlsx" if "content.xml" in inside else "table.not_a_table", name=name))


# ---- text
def encoding_of(path: Path, name: str) -> str:
    """What its mark or its zeros say; else UTF-8 when the whole file is; else cp932 or cp1252.

    Raises InvalidRequest when its words are in neither's letters: there are too many encodings of the others.
    """
    with path.open("rb") as file:
        head = file.read(_CHUNK_BYTES)
    known = marked_encoding(head) or wide_encoding(head)
    if known is not None:
        return known
    beyond = _first_beyond_utf8(path)
    if beyond is None:
        return UTF_8
    found = narrow_encoding(beyond)
    if found == "cp1252" and not is_latin(beyond):
        raise InvalidRequest(say("table.unknown_encoding", name=name), param="encoding")
    return found


def _first_beyond_utf8(path: Path) -> bytes | None:
    """Whole lines, of which the first is not UTF-8; None when there is none."""
    with path.open("rb") as file:
        for line in file:
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return line + file.read(_CHUNK_BYTES)
    return None


def _open_text(table: Table, path: Path, encoding: str, header_row: int) -> None:
    table.encoding = encoding or encoding_of(path, table.name)
    try:
        file = table.closing.enter_context(path.open("r", encoding=table.encoding, newline=_LINE_ENDS[table.kind]))
        size = max(1, path.stat().st_size)
        table.share = lambda: min(1.0, os.lseek(file.fileno(), 0, os.SEEK_CUR) / size)
        if table.kind in ("csv", "tsv"):
            _under_header(table, _csv_rows(file, table), header_row)
        else:
            table.records = _json_records(file, table.name, as_lines=table.kind == "jsonl")
    except (UnicodeError, LookupError) as exc:
        raise _unreadable(table, exc) from exc
    table.records = _decoded(table, table.records)


def _decoded(table: Table, records: Iterator[Record]) -> Iterator[Record]:
    try:
        yield from records
    except (UnicodeError, LookupError) as exc:
        raise _unreadable(table, exc) from exc


def _unreadable(table: Table, exc: Exception) -> InvalidRequest:
    text = say("table.wrong_encoding", name=table.name, encoding=table.encoding, reason=str(exc)[:200])
    return InvalidRequest(text, param="encoding")


def _csv_rows(file: TextIO, table: Table) -> Numbered:
    csv.field_size_limit(_MAX_CELL)
    told = re.fullmatch(r"sep=(.)\s*", file.readline(_SAMPLE))  # written by Excel, and for it
    if told is None:
        file.seek(0)
    delimiter = "\t" if table.kind == "tsv" else told[1] if told else _delimiter(file)
    return _numbered(file, delimiter, table.name)


def _delimiter(file: TextIO) -> str:
    """The one by which most rows come to one number of cells. Semicolons are of countries that write 1,5."""
    sample = file.read(_SAMPLE)
    file.seek(0)
    return max(_DELIMITERS, key=lambda delimiter: _regularity(sample, delimiter))


def _regularity(sample: str, delimiter: str) -> float:
    try:
        rows = [cells for cells in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if cells]
    except csv.Error:
        return 0.0
    widths = Counter(len(cells) for cells in (rows[:-1] if len(sample) == _SAMPLE else rows))
    if not widths:
        return 0.0
    width, count = widths.most_common(1)[0]
    return count / widths.total() if width > 1 else 0.0


def _numbered(file: TextIO, delimiter: str, name: str) -> Numbered:
    """Rows with the number of the line that they end in."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            raise InvalidRequest(say("table.open_quotation", name=name, line=line, reason=str(exc))) from exc
        yield reader.line_num, cells


# ---- rows of cells
def _under_header(table: Table, rows: Numbered, header_row: int) -> None:
    """The header is the first row with two filled cells: above it may stand empty rows, or the title of a report. Of
    two header rows it is the second when that one has the telling names. Columns without a name are left out, those of
    one name told apart."""
    head = list(islice(rows, max(_HEAD, header_row)))
    begin = header_row - 1 if header_row else _header_in([cells for _, cells in head])
    if begin is None or begin >= len(head):
        if header_row and head:
            raise InvalidRequest(say("table.no_header_row", row=header_row, name=table.name), param="header_row")
        return
    table.header_row = begin + 1
    names = _unique([_name(cell) for cell in head[begin][1]])
    table.records = _records(names, chain(head[begin + 1 :], rows), table)


def _header_in(head: Sequence[Cells]) -> int | None:
    """Its place among these rows."""
    filled = [_num_filled(cells) for cells in head]
    begin = next((n for least in (2, 1) for n, count in enumerate(filled) if count >= least), None)
    if begin is not None and begin + 1 < len(head) and num_telling(map(_name, head[begin + 1])) >= 2:
        return begin + 1
    return begin


def _records(names: Sequence[str], rows: Iterable[tuple[int, Cells]], table: Table) -> Iterator[Record]:
    for line, cells in rows:
        if table.kind != "xlsx" and _num_filled(cells[len(names) :]):  # in a sheet somebody's remark, else a fault
            raise InvalidRequest(say("table.too_many_fields", name=table.name, line=line))
        if _num_filled(cells):
            yield {name: cell for name, cell in zip_longest(names, cells[: len(names)], fillvalue=None) if name}


def _num_filled(cells: Iterable[Any]) -> int:
    return sum(cell is not None and cell != "" for cell in cells)


def _name(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _unique(names: list[str]) -> list[str]:
    """`answer`, `answer (2)`."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name} ({seen[name]})" if name and seen[name] > 1 else name)
    return unique


def _open_workbook(table: Table, path: Path, sheet: str, header_row: int) -> None:
    """The sheet of that name, else the first one that holds a table."""
    book = Workbook(path, table.name)
    table.closing.callback(book.close)
    table.sheets = list(book.sheets)
    if sheet and sheet not in book.sheets:
        raise InvalidRequest(say("table.no_sheet", name=table.name, sheet=sheet), param="sheet")
    for name in [sheet] if sheet else table.sheets:
        table.sheet = name
        _under_header(table, _watched(table, book), header_row)
        if (first := next(table.records, None)) is not None:
            table.records = chain([first], table.records)
            break
    else:
        return
    if unknown := book.num_without_value(table.sheet):
        table.notes.append(say("table.formulas", count=unknown, sheet=table.sheet))


def _watched(table: Table, book: Workbook) -> Numbered:
    total, at = max(1, book.num_rows(table.sheet)), 0
    table.share = lambda: min(1.0, at / total)
    for at, cells in book.rows(table.sheet):
        yield at, cells


# ---- objects
def _json_records(file: TextIO, name: str, *, as_lines: bool) -> Iterator[Record]:
    """Lines; else a list of objects, an object that holds one, or objects one after the other, whatever the file is
    called."""
    if as_lines and _is_json_object(next((line for line in file if line.strip()), "{}")):
        file.seek(0)
        yield from _json_lines(file, name)
        return
    file.seek(0)
    for number, record in enumerate(_listed(list(_json_values(file.read(), name)), name), 1):
        yield _as_record(record, "table.entry_no_object", name, number)


def _json_lines(file: TextIO, name: str) -> Iterator[Record]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise InvalidRequest(say("table.line_no_json", name=name, line=number, reason=str(exc))) from exc
        yield _as_record(record, "table.line_no_object", name, number)


def _listed(values: list[Any], name: str) -> list[Any]:
    if len(values) != 1:
        return values
    (document,) = values
    if isinstance(document, dict) and not _CONVERSATIONS & document.keys():
        lists = [value for value in document.values() if isinstance(value, list)]
        if len(lists) > 1:
            raise InvalidRequest(say("table.several_lists", name=name, count=len(lists)))
        document = lists[0] if lists else document
    return document if isinstance(document, list) else [document]


def _json_values(text: str, name: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    position = _filled_from(text, 0)
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as exc:
            raise InvalidRequest(say("table.no_json", name=name, reason=str(exc))) from exc
        yield value
        position = _filled_from(text, position)


def _filled_from(text: str, position: int) -> int:
    found = re.compile(r"\S").search(text, position)
    return found.start() if found else len(text)


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _as_record(value: Any, problem: str, name: str, number: int) -> Record:
    if not isinstance(value, dict):
        raise InvalidRequest(say(problem, name=name, line=number))
    return value


def _open_parquet(table: Table, path: Path) -> None:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as exc:
        raise needs_packages("Parquet") from exc
    try:
        file = table.closing.enter_context(parquet.ParquetFile(path))
    except (arrow.ArrowInvalid, OSError) as exc:
        raise InvalidRequest(say("table.broken", name=table.name, kind="Parquet")) from exc

    total, at = max(1, file.metadata.num_rows), 0
    table.share = lambda: min(1.0, at / total)

    def records() -> Iterator[Record]:
        nonlocal at
        try:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                yield from batch.to_pylist()
                at += batch.num_rows
        except (arrow.ArrowInvalid, OSError) as exc:
            raise InvalidRequest(say("table.broken", name=table.name, kind="Parquet")) from exc

    table.records = records()
