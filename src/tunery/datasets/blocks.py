"""A stream of bytes cut at line breaks into blocks: the unit that one process examines at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tunery.datasets.jsonline import joined_by
from tunery.datasets.lines import MAX_LINE_BYTES

BLOCK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Block:
    data: bytes  # whole lines; empty when the block stands for one line beyond the limit
    oversize: int = 0  # bytes of that line
    joined: str = ""  # as of Line
    is_sample: bool = False  # near the beginning: its texts are kept to look for near-duplicates

    @property
    def size(self) -> int:
        return self.oversize or len(self.data)


def read_blocks(chunks: Iterable[bytes], sample_bytes: int) -> Iterator[Block]:
    """Blocks of about BLOCK_BYTES, in order. Memory: one line and one block, whatever the file holds."""
    pending = bytearray()  # the beginning of a line
    skipped, joined = 0, ""  # bytes so far of a line that is too long to keep
    seen = 0
    for piece in _pieces(chunks):
        sample = seen < sample_bytes
        seen += len(piece)
        if skipped:
            end = piece.find(b"\n")
            if end < 0:
                skipped += len(piece)
                continue
            yield Block(b"", skipped + end, joined)
            piece, skipped = piece[end + 1 :], 0
        cut = piece.rfind(b"\n") + 1
        if cut:
            yield Block(bytes(pending) + piece[:cut], is_sample=sample)
            pending = bytearray()
        pending += piece[cut:]
        if len(pending) > MAX_LINE_BYTES:
            skipped, joined, pending = len(pending), joined_by(bytes(pending)), bytearray()
    if skipped:
        yield Block(b"", skipped, joined)
    elif pending:
        yield Block(bytes(pending), is_sample=seen <= sample_bytes)


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), BLOCK_BYTES):
            yield chunk[start : start + BLOCK_BYTES]
