"""Server-sent events: the engine's chunks in, ours out."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson

DONE = b"data: [DONE]\n\n"


async def read_chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Each `data:` line as JSON, up to `[DONE]`. The engine writes one line an event."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        yield orjson.loads(data)


def write_chunk(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
