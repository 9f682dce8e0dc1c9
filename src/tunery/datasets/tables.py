"""Rows of CSV, TSV, JSON, JSONL, Parquet and XLSX files, one after the other, each a dictionary by column."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunery.domain.errors import InvalidRequest

Record = dict[str, Any]
_PARQUET_ROWS = 1000


def read_table(path: Path) -> Iterator[Record]:
    """By the file's ending. Raises InvalidRequest, naming the line or row, when it cannot be read as that."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(sorted(ending.removeprefix(".") for ending in _READERS))
        raise InvalidRequest(f"{path.name}: unknown ending. These can be read: {known}.")
    yield from reader(path)


def _read_csv(path: Path, delimiter: str | None = None) -> Iterator[Record]:
    with path.open("r", encoding="utf-8-sig", newline="") as file:
        try:
            yield from _records(file, delimiter or _delimiter(file), path)
        except UnicodeDecodeError as exc:
            raise InvalidRequest(f"{path.name} is not UTF-8: save it as CSV UTF-8.") from exc
        except csv.Error as exc:
            raise InvalidRequest(f"{path.name} cannot be read as a table: {exc}.") from exc


def _records(file: io.TextIOBase, delimiter: str, path: Path) -> Iterator[Record]:
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    for record in reader:
        if None in record:
            raise InvalidRequest(f"{path.name}, line {reader.line_num}: more fields than the header has.")
        yield {name: value or "" for name, value in record.items()}


def _delimiter(file: io.TextIOBase) -> str:
    """Comma, or the semicolon of countries that write 1,5: whichever stands more often in the header."""
    header = file.readline()
    file.seek(0)
    return max((",", ";", "\t"), key=header.count)


def _read_tsv(path: Path) -> Iterator[Record]:
    return _read_csv(path, "\t")


def _read_json(path: Path) -> Iterator[Record]:
    """A list of objects, or an object that holds one."""
    try:
        document = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"{path.name} is not JSON: {exc}.") from exc
    if isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list)]
        document = lists[0] if len(lists) == 1 else document
    if not isinstance(document, list):
        raise InvalidRequest(f"{path.name} must hold a list of objects.")
    for number, record in enumerate(document, 1):
        yield _as_record(record, path, f"entry {number}")


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open("r", encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise InvalidRequest(f"{path.name}, line {number} is not JSON: {exc}.") from exc
            yield _as_record(record, path, f"line {number}")


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
    rows = workbook.worksheets[0].iter_rows(values_only=True)
    header = [str(name).strip() if name is not None else "" for name in next(rows, ())]
    for row in rows:
        if any(value is not None for value in row):
            yield {name: "" if value is None else value for name, value in zip(header, row, strict=False) if name}
    workbook.close()


def _needs_extra(what: str) -> InvalidRequest:
    return InvalidRequest(f"{what} files need two more packages: pip install 'tunery[tables]'.")


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".xlsx": _read_xlsx,
}
