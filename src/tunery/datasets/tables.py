"""Rows of CSV, TSV, JSON, JSONL, Parquet and XLSX files, one after the other, each a dictionary by column."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, TextIO

from tunery.datasets.encodings import UTF_8, is_latin, marked_encoding, narrow_encoding, wide_encoding
from tunery.domain.errors import InvalidRequest

Record = dict[str, Any]
_PARQUET_ROWS = 1000
_CHUNK_BYTES = 1024 * 1024
_MAX_CELL = 64 * 1024 * 1024  # characters; csv's own limit of 131,072 is shorter than a document that someone pastes
_CONVERSATIONS = frozenset(("messages", "conversations"))  # keys of one row, not of a file
_HEAD = 20  # rows, among which the header stands
_SAMPLE = 64 * 1024  # characters, by which the delimiter is told
_DELIMITERS = (",", ";", "\t", "|")


def read_table(path: Path, encoding: str = UTF_8) -> Iterator[Record]:
    """By the file's ending. `encoding`: of a text file. Raises InvalidRequest, naming the line or row, when it cannot
    be read as that."""
    reader = _READERS.get(path.suffix.lower())
    if reader is not None:
        yield from reader(path)
        return
    reader = _TEXT_READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(sorted(ending.removeprefix(".") for ending in (*_READERS, *_TEXT_READERS)))
        raise InvalidRequest(f"{path.name}: unknown ending. These can be read: {known}.")
    try:
        yield from reader(path, encoding)
    except (UnicodeError, LookupError) as exc:
        raise InvalidRequest(
            f"{path.name} cannot be read as {encoding}: {exc}. Save it as UTF-8, or name its encoding."
        ) from exc


def is_text(path: Path) -> bool:
    return path.suffix.lower() in _TEXT_READERS


def encoding_of(path: Path) -> str:
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
        raise InvalidRequest(
            f"{path.name} is not UTF-8, and its encoding cannot be told. Save it as UTF-8, or name it with --encoding, "
            "such as euc_jp, gb18030, big5, cp949 (Korean), cp1251 (Cyrillic) or cp1253 (Greek)."
        )
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


def _read_csv(path: Path, encoding: str, delimiter: str | None = None) -> Iterator[Record]:
    csv.field_size_limit(_MAX_CELL)
    with path.open("r", encoding=encoding, newline="") as file:
        told = re.fullmatch(r"sep=(.)\s*", file.readline(_SAMPLE))  # written by Excel, and for it
        if told is None:
            file.seek(0)
        chosen = delimiter or (told[1] if told else _delimiter(file))
        yield from _under_header(_numbered(file, chosen, path), path)


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


def _numbered(file: TextIO, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of the line that they end in."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            raise InvalidRequest(
                f"{path.name} cannot be read as a table from line {line} on: {exc}. A quotation mark may be missing."
            ) from exc
        yield reader.line_num, cells


def _under_header(rows: Iterable[tuple[int, Sequence[Any]]], path: Path) -> Iterator[Record]:
    """The header is the first row with two filled cells: above it may stand empty rows, or the title of a report.
    Columns without a name are left out, those of one name told apart."""
    rows = iter(rows)
    head = list(islice(rows, _HEAD))
    filled = [_num_filled(cells) for _, cells in head]
    begin = next((n for least in (2, 1) for n, count in enumerate(filled) if count >= least), len(head))
    if begin == len(head):
        return
    names = _unique([_name(cell) for cell in head[begin][1]])
    for line, cells in chain(head[begin + 1 :], rows):
        if _num_filled(cells[len(names) :]):
            raise InvalidRequest(f"{path.name}, line {line}: more fields than the header has.")
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


def _read_tsv(path: Path, encoding: str) -> Iterator[Record]:
    return _read_csv(path, encoding, "\t")


def _read_json(path: Path, encoding: str) -> Iterator[Record]:
    """A list of objects, an object that holds one, or objects one after the other."""
    values = list(_json_values(path.read_text(encoding), path))
    records = values
    if len(values) == 1:
        (document,) = values
        if isinstance(document, dict) and not _CONVERSATIONS & document.keys():
            lists = [value for value in document.values() if isinstance(value, list)]
            if len(lists) > 1:
                raise InvalidRequest(f"{path.name} must hold one list of objects; it holds {len(lists)} lists.")
            document = lists[0] if lists else document
        records = document if isinstance(document, list) else [document]
    for number, record in enumerate(records, 1):
        yield _as_record(record, path, f"entry {number}")


def _json_values(text: str, path: Path) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    position = _filled_from(text, 0)
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as exc:
            raise InvalidRequest(f"{path.name} is not JSON: {exc}.") from exc
        yield value
        position = _filled_from(text, position)


def _filled_from(text: str, position: int) -> int:
    found = re.compile(r"\S").search(text, position)
    return found.start() if found else len(text)


def _read_jsonl(path: Path, encoding: str) -> Iterator[Record]:
    with path.open("r", encoding=encoding, newline="\n") as file:
        if not _is_json_object(next((line for line in file if line.strip()), "{}")):
            yield from _read_json(path, encoding)  # a list or laid-out objects, whatever the file is called
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise InvalidRequest(f"{path.name}, line {number} is not JSON: {exc}.") from exc
            yield _as_record(record, path, f"line {number}")


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _as_record(value: Any, path: Path, where: str) -> Record:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path.name}, {where} is not an object.")
    return value


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as exc:
        raise _needs_extra("Parquet") from exc
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                yield from batch.to_pylist()
    except arrow.ArrowInvalid as exc:
        raise InvalidRequest(f"{path.name} cannot be read as Parquet: {exc}.") from exc


def _read_xlsx(path: Path) -> Iterator[Record]:
    try:
        from openpyxl import load_workbook
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError as exc:
        raise _needs_extra("XLSX") from exc
    import zipfile

    try:
        workbook = load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError) as exc:
        raise InvalidRequest(f"{path.name} cannot be read as XLSX.") from exc
    for sheet in workbook.worksheets:
        sheet.reset_dimensions()  # the size that some programs write into the file is wrong
    sheets = (enumerate(sheet.iter_rows(values_only=True), 1) for sheet in workbook.worksheets)
    for rows in sheets:
        records = _under_header(rows, path)
        if (first := next(records, None)) is not None:  # the first sheet that holds a table
            yield from chain([first], records)
            break
    workbook.close()


def _needs_extra(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what} files need two more packages: pip install 'tunery[tables]'.")


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {".parquet": _read_parquet, ".xlsx": _read_xlsx}
_TEXT_READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
}
TABLES = frozenset((*_READERS, *_TEXT_READERS)) - {".jsonl"}
"""Endings of files that are no training files, and may become one."""
