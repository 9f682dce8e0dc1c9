"""A stream of bytes as numbered lines, in bounded memory: a line beyond the limit is counted, not kept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LINE_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    number: int  # 1-based
    example: int  # 1-based among the lines that are not blank; 0 for a blank one
    content: bytes  # without its line break; empty for a blank line, and for one that is too long
    size: int  # bytes of the whole line

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
    example = 0
    for number, (content, size) in enumerate(_split(chunks), 1):
        content = content.strip(b" \t\r")
        if size > MAX_LINE_BYTES:
            example += 1
            yield Line(number, example, b"", size)
        elif content:
            example += 1
            yield Line(number, example, content, len(content))
        else:
            yield Line(number, 0, b"", 0)


def _split(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """(content, size) of each line; the content of a line beyond the limit is dropped while it is read."""
    kept: list[bytes] = []
    size = 0
    for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            piece = chunk[start:end]
            size += len(piece)
            if size > MAX_LINE_BYTES:
                yield b"", size
            else:
                kept.append(piece)
                yield b"".join(kept), size
            kept, size, start = [], 0, end + 1
        rest = chunk[start:]
        size += len(rest)
        if size > MAX_LINE_BYTES:
            kept = []
        elif rest:
            kept.append(rest)
    if size:
        yield b"".join(kept), size
