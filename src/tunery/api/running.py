"""Answers in the making. Each is a task of its own, so that it comes to its end, the ledger, whether its client waits
for it or not.

A client that goes away ends its answer early: the engine is told to stop, and says what the answer had come to. So
does a key that may no longer ask: its client gets an error in place of the rest.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from tunery.domain.errors import TuneryError
from tunery.domain.tenants import Caller

log = logging.getLogger(__name__)

T = TypeVar("T")

STOP_AGAIN_S = 0.5  # an engine may be told to stop before it has the request
UNHEARD_S = 60.0  # an engine that cannot be told for so long will not end the answer either
CLOSE_S = 10.0
AHEAD = 64  # events of a stream that may wait for a slow client


class Running:
    """The tasks. They outlive the requests that they were begun for, not the process."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answers: dict[asyncio.Task[Any], tuple[Caller, Callable[[TuneryError], None]]] = {}

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def answer(
        self, work: Coroutine[Any, Any, T], caller: Caller, cut: Callable[[TuneryError], None]
    ) -> asyncio.Task[T]:
        """Starts the answer to `caller`. `cut` gives the client an error in place of what is still to come."""
        task = self.start(work)
        self._answers[task] = caller, cut
        task.add_done_callback(lambda _: self._answers.pop(task, None))
        return task

    @property
    def callers(self) -> set[Caller]:
        """Those who have an answer in the making."""
        return {caller for caller, _ in self._answers.values()}

    def cut_off(self, caller: Caller, error: TuneryError) -> None:
        """All answers to this caller."""
        for asking, cut in list(self._answers.values()):
            if asking == caller:
                cut(error)

    async def close(self) -> None:
        """At shutdown, when no client is left: what runs has been told to end, and now has a moment for it."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()


class Stream:
    """The events of an answer on their way from its task to the client."""

    def __init__(self) -> None:
        self.is_left = False
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(AHEAD)

    async def pump(self, events: AsyncGenerator[bytes]) -> None:
        """The task's part: to the end of the answer, also when nobody takes the events any more."""
        try:
            async with aclosing(events):
                async for event in events:
                    if not self.is_left:
                        await self._waiting.put(event)
        finally:
            if not self.is_left:
                await self._waiting.put(None)

    async def take(self) -> bytes | None:
        """The next event; None after the last one, or where the task failed."""
        return await self._waiting.get()

    def leave(self) -> None:
        self.is_left = True
        while not self._waiting.empty():
            self._waiting.get_nowait()

    def cut(self, last: bytes) -> None:
        """Nothing follows but this event."""
        if not self.is_left:
            self.leave()
            self._waiting.put_nowait(last)
            self._waiting.put_nowait(None)


async def end_early(task: asyncio.Task[Any], stop: Callable[[], Awaitable[bool]]) -> None:
    """Until the task is over. `stop` asks its engine for that; False: the engine did not hear it."""
    clock = asyncio.get_running_loop().time
    heard_at = clock()
    while not task.done():
        if await stop():
            heard_at = clock()
        await asyncio.wait({task}, timeout=STOP_AGAIN_S)
        if clock() > heard_at + UNHEARD_S:
            task.cancel()
    if not task.cancelled() and (problem := task.exception()) is not None and not isinstance(problem, TuneryError):
        log.error("an answer whose client had gone failed", exc_info=problem)
