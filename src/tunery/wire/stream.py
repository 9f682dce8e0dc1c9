"""Answers on their way: server-sent events, read and written, and a client that goes away while it waits."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import orjson
from starlette.requests import Request

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def while_connected(request: Request, task: asyncio.Task[T], cut: asyncio.Future[T] | None = None) -> T:
    """The task's result. Raises what it raised; ClientGone, and what `cut` is given: then the task runs on.

    The request's body must be read already.
    """
    gone = asyncio.create_task(_disconnected(request))
    waited = {task, gone} if cut is None else {task, gone, cut}
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
    if cut is not None and cut.done():
        return cut.result()
    if not task.done():
        raise ClientGone
    return task.result()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Each `data:` line as JSON, up to `[DONE]`. An engine writes one line an event. Raises JSONDecodeError.

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


def write_event(document: Any, name: str | None = None) -> bytes:
    """`document`: what orjson writes, or JSON as bytes. `name`: of the event, where the format has names."""
    data = document if isinstance(document, bytes) else orjson.dumps(document)
    return (b"" if name is None else b"event: " + name.encode() + b"\n") + b"data: " + data + b"\n\n"
