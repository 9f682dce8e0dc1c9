"""A stream of bytes as numbered lines, in bounded memory: a line beyond the limit is counted, not kept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tunery.datasets.jsonline import joined_by

MAX_LINE_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    number: int  # 1-based
    example: int  # 1-based among the lines that are not blank; 0 for a blank one
    content: bytes  # without its line break; empty for a blank line, and for one that is too long
    size: int  # bytes of the whole line; 0 for a blank one
    joined: str = ""  # of a line that is too long: the line end of another kind by which it is several

    @property
    def is_blank(self) -> bool:
        return not self.size

    @property
    def is_too_long(self) -> bool:
        return self.size > MAX_LINE_BYTES


def read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def read_lines(chunks: Iterable[bytes]) -> Iterator[Line]:
    """Lines end with LF, CRLF or the end of the file. White space alone is a blank line."""
    splitter = LineSplitter()
    for chunk in chunks:
        yield from splitter.feed(chunk)
    yield from splitter.finish()


class LineSplitter:
    """Turns chunks into lines as they come. The content of a line beyond the limit is dropped while it passes."""

    def __init__(self) -> None:
        self._number = self._example = 0
        self._kept: list[bytes] = []
        self._size = 0
        self._joined = ""

    def feed(self, chunk: bytes) -> Iterator[Line]:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._add(chunk[start:end])
            yield self._line()
            start = end + 1
        self._add(chunk[start:])

    def finish(self) -> Iterator[Line]:
        if self._size:
            yield self._line()

    def _add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= MAX_LINE_BYTES:
            self._kept.append(piece)
        elif self._size - len(piece) <= MAX_LINE_BYTES:
            self._joined = joined_by(b"".join([*self._kept, piece]))
            self._kept = []

    def _line(self) -> Line:
        content, size = b"".join(self._kept).strip(b" \t\r"), self._size
        joined, self._kept, self._size, self._joined = self._joined, [], 0, ""
        self._number += 1
        if not content and size <= MAX_LINE_BYTES:
            return Line(self._number, 0, b"", 0)
        self._example += 1
        return Line(self._number, self._example, content, max(size, len(content)), joined)
