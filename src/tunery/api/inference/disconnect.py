"""Stops work for a client that has gone away."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from fastapi import Request

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def while_connected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, which is cancelled when the client disconnects. The request's body must be read already."""
    result: list[T] = []

    async def run(scope: anyio.CancelScope) -> None:
        try:
            result.append(await work())
        finally:
            scope.cancel()

    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(run, group.cancel_scope)
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()
    except BaseExceptionGroup as exc:
        failure = exc.exceptions[0]
    if failure is not None:
        raise failure
    if not result:
        raise ClientGone
    return result[0]
