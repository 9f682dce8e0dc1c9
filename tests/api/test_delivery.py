"""The events of a stream on their way to its client."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tunery.api.delivery import AHEAD, Stream


def finished(work: Coroutine[Any, Any, list[bytes]]) -> list[bytes]:
    """In a thread: the browser that other tests of this process share keeps a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def numbers(count: int, pause: int) -> AsyncGenerator[bytes]:
    for number in range(count):
        if pause and number % pause == 0:
            await asyncio.sleep(0)
        yield b"%d\n" % number


async def all_of(stream: Stream) -> list[bytes]:
    taken: list[bytes] = []
    while (piece := await stream.take()) is not None:
        taken.append(piece)
    assert await stream.take() is None
    return taken


@pytest.mark.parametrize("count", [0, 1, AHEAD - 1, AHEAD, 5 * AHEAD])
@pytest.mark.parametrize("pause", [0, 1, 7])
def test_each_event_goes_out_once_and_those_that_wait_go_together(count: int, pause: int) -> None:
    async def run() -> list[bytes]:
        stream = Stream()
        pumping = asyncio.create_task(stream.pump(numbers(count, pause)))
        taken = await all_of(stream)
        await pumping
        return taken

    taken = finished(run())
    assert b"".join(taken) == b"".join(b"%d\n" % number for number in range(count))
    if not pause:
        assert len(taken) <= count // AHEAD + 1


@pytest.mark.parametrize("count", [1, AHEAD, 5 * AHEAD])
def test_behind_a_cut_comes_its_event_and_nothing_else(count: int) -> None:
    async def run() -> list[bytes]:
        stream = Stream()
        pumping = asyncio.create_task(stream.pump(numbers(count, 0)))
        await asyncio.sleep(0)  # it has run until nothing more may wait
        stream.cut(b"cut")
        await asyncio.sleep(0)  # and one that waited for room comes behind
        taken = await all_of(stream)
        await pumping
        return taken

    assert finished(run()) == [b"cut"]
