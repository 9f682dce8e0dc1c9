"""Rows of CSV, TSV, JSON, JSONL, Parquet and XLSX files, one after the other, each a dictionary by column."""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tunery.domain.errors import InvalidRequest

Record = dict[str, Any]
UTF_8 = "utf-8-sig"
_PARQUET_ROWS = 1000
_CHUNK_BYTES = 1024 * 1024
_MAX_CELL = 64 * 1024 * 1024  # characters; csv's own limit of 131,072 is shorter than a document that someone pastes
_MARKS = {
    codecs.BOM_UTF8: UTF_8,
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


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
        raise InvalidRequest(f"{path.name} cannot be read as {encoding}: {exc}.") from exc


def is_text(path: Path) -> bool:
    return path.suffix.lower() in _TEXT_READERS


def encoding_of(path: Path) -> str:
    """UTF-8 when the whole file is; else what its mark says; else the likelier of cp932 and cp1252, in which Excel
    saves CSV in Japan and in western countries."""
    with path.open("rb") as file:
        head = file.read(_CHUNK_BYTES)
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    if marked is not None:
        return marked
    if b"\0" in head[:2] or b"\0" in head[2:4]:  # an ASCII character in two bytes
        return "utf-16-be" if head.startswith(b"\0") else "utf-16-le"
    undecodable = _first_beyond_utf8(path)
    return UTF_8 if undecodable is None else _legacy_encoding(undecodable)


def _first_beyond_utf8(path: Path) -> bytes | None:
    """The first chunk that is not UTF-8; None when there is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            try:
                decoder.decode(chunk, final=len(chunk) < _CHUNK_BYTES)
            except UnicodeDecodeError:
                return chunk
    return None


def _legacy_encoding(sample: bytes) -> str:
    from charset_normalizer import from_bytes  # takes a fifth of a second, which UTF-8 need not pay

    found = from_bytes(sample, cp_isolation=["cp932", "cp1252"]).best()
    return found.encoding if found else "cp1252"


def _read_csv(path: Path, encoding: str, delimiter: str | None = None) -> Iterator[Record]:
    csv.field_size_limit(_MAX_CELL)
    with path.open("r", encoding=encoding, newline="") as file:
        try:
            yield from _records(file, delimiter or _delimiter(file), path)
        except csv.Error as exc:
            raise InvalidRequest(f"{path.name} cannot be read as a table: {exc}.") from exc


def _records(file: io.TextIOBase, delimiter: str, path: Path) -> Iterator[Record]:
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    for record in reader:
        if None in record:
            raise InvalidRequest(f"{path.name}, line {reader.line_num}: more fields than the header has.")
        yield {name: value or "" for name, value in record.items()}


def _delimiter(file: io.TextIOBase) -> str:
    """Comma, or the semicolon of countries that write 1,5: whichever stands more often in the header."""
    header = file.readline()
    file.seek(0)
    return max((",", ";", "\t"), key=header.count)


def _read_tsv(path: Path, encoding: str) -> Iterator[Record]:
    return _read_csv(path, encoding, "\t")


def _read_json(path: Path, encoding: str) -> Iterator[Record]:
    """A list of objects, or an object that holds one."""
    try:
        document = json.loads(path.read_text(encoding))
    except (json.JSONDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{path.name} is not JSON: {exc}.") from exc
    if isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list)]
        document = lists[0] if len(lists) == 1 else document
    if not isinstance(document, list):
        raise InvalidRequest(f"{path.name} must hold a list of objects.")
    for number, record in enumerate(document, 1):
        yield _as_record(record, path, f"entry {number}")


def _read_jsonl(path: Path, encoding: str) -> Iterator[Record]:
    with path.open("r", encoding=encoding, newline="\n") as file:
        if file.read(1) == "[":  # one list, whatever the file is called
            yield from _read_json(path, encoding)
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


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {".parquet": _read_parquet, ".xlsx": _read_xlsx}
_TEXT_READERS: dict[str, Callable[[Path, str], Iterator[Record]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
}
