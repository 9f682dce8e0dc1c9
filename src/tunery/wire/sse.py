"""Server-sent events: the engine's chunks in, ours out."""

from collections.abc import AsyncIterator
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"


async def read_chunks(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Each `data:` line as JSON, up to `[DONE]`. The engine writes one line an event.

    A line ends with "\\n" and nothing else: the text in it may hold what Unicode counts as a line's end, too.
    """
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield orjson.loads(data)


def write_chunk(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
