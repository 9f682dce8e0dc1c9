"""Rows of the sheets of an XLSX workbook: values, not formulas; a cell merged over several rows stands in each."""

import re
import zipfile
import zlib
from bisect import insort
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from tunery.domain.errors import InvalidRequest
from tunery.texts import say

_CHUNK_BYTES = 1024 * 1024
_OVERLAP_BYTES = 4096  # of two chunks: no tag that is looked for is longer
_MERGED = re.compile(rb'<mergeCell ref="([A-Z]{1,3})([0-9]{1,7}):[A-Z]{1,3}([0-9]{1,7})"')
# A formula whose value the program that wrote it has not computed.
_UNKNOWN = re.compile(rb"</f>(?:<v/>|<v />|<v></v>)?</c>")
_MAX_MERGED = 100_000
_BROKEN = (zipfile.BadZipFile, zlib.error, ParseError, NotImplementedError, KeyError, ValueError, TypeError)
_BROKEN += (AttributeError, IndexError, EOFError, OSError)  # what openpyxl meets in XML that is not as it should be

Cells = Sequence[Any]


class Workbook:
    """Close it when its rows have been read."""

    def __init__(self, path: Path, name: str) -> None:
        """Raises InvalidRequest when the packages are missing or the file is broken."""
        try:
            from openpyxl import load_workbook
            from openpyxl.utils.exceptions import InvalidFileException
        except ImportError as exc:
            raise needs_packages("XLSX") from exc
        self.name = name
        self._file = path.open("rb")  # a path would be judged by its ending
        try:
            self._book = load_workbook(self._file, read_only=True, data_only=True)
        except (*_BROKEN, InvalidFileException) as exc:
            self._file.close()
            raise self._broken() from exc
        self.sheets = {sheet.title: sheet for sheet in self._book.worksheets}

    def close(self) -> None:
        self._book.close()
        self._file.close()

    def num_rows(self, sheet: str) -> int:
        """As the file says; 0: it does not."""
        return self.sheets[sheet].max_row or 0

    def rows(self, sheet: str) -> Iterator[tuple[int, Cells]]:
        """With their 1-based numbers. Raises InvalidRequest where the file is broken."""
        found = self.sheets[sheet]
        found.reset_dimensions()  # the size that some programs write into the file is wrong
        try:
            merged = _Merged(self._matches(sheet, _MERGED))
            for number, cells in enumerate(found.iter_rows(values_only=True), 1):
                yield number, merged.fill(number, cells)
        except _BROKEN as exc:
            raise self._broken() from exc

    def num_without_value(self, sheet: str) -> int:
        """Formulas of which only the text is there."""
        try:
            return sum(1 for _ in self._matches(sheet, _UNKNOWN))
        except _BROKEN as exc:
            raise self._broken() from exc

    def _matches(self, sheet: str, pattern: re.Pattern[bytes]) -> Iterator[re.Match[bytes]]:
        """In the sheet's XML, which is never held whole."""
        found: Any = self.sheets[sheet]
        with found._get_source() as source:
            text, last = b"", False
            while not last:
                chunk = source.read(_CHUNK_BYTES)
                text, last = text + chunk, not chunk
                end = len(text) if last else max(0, len(text) - _OVERLAP_BYTES)
                seen = 0
                for match in pattern.finditer(text):
                    if match.start() >= end:
                        break
                    seen = match.end()
                    yield match
                text = text[max(end, seen) :]

    def _broken(self) -> InvalidRequest:
        return InvalidRequest(say("table.broken", name=self.name, kind="XLSX"))


def needs_packages(kind: str) -> InvalidRequest:
    return InvalidRequest(say("table.needs_packages", kind=kind), code="packages_missing")


class _Merged:
    """Only the first cell of those merged holds what all show. Over several rows it is filled into each; over several
    columns it is a title, and stays where it is."""

    def __init__(self, found: Iterator[re.Match[bytes]]) -> None:
        self._waiting: list[tuple[int, int, int]] = []  # first row, column from 0, last row; the next one last
        for match in found:
            first, last = int(match[2]), int(match[3])
            if first < last and len(self._waiting) < _MAX_MERGED:
                insort(self._waiting, (-first, _column(match[1]), last))
        self._open: list[tuple[int, int, Any]] = []  # column, last row, value

    def fill(self, number: int, cells: Cells) -> Cells:
        self._open = [each for each in self._open if each[1] >= number]
        if self._open:
            filled = list(cells)
            for column, _, value in self._open:
                filled += [None] * (column + 1 - len(filled))
                filled[column] = value
            cells = filled
        while self._waiting and -self._waiting[-1][0] <= number:
            _, column, last = self._waiting.pop()
            self._open.append((column, last, cells[column] if column < len(cells) else None))
        return cells


def _column(letters: bytes) -> int:
    """From 0."""
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number - 1
