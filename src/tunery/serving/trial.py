"""Tries in a process of its own whether a grammar can be made: schemas that hold for one value at once, such as twenty
patterns in an `allOf`, are combined with each other, which may take hours and all memory, and no thread can be ended.

Schemas that say one thing of each value, which most do, need no trial.
"""

import asyncio
import multiprocessing
import os
import resource
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import TimeoutError as TookTooLong
from concurrent.futures.process import BrokenProcessPool
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from tunery.datasets.pool import end_with_parent

TIME_LIMIT_S = 5.0
MAX_BYTES = 512 * 1024**2  # of addresses, beyond those that a process has before its first trial
NUM_PROCESSES = 2
SLOW_S = 1.0  # a project with a schema that takes longer is slow for a while
SLOW_FOR_S = 600.0
MAX_SLOW = 1_000  # projects that are remembered
# A node with two of these has them combined by the grammar engine; with the last ones, already with one.
_COMBINED = ("$ref", "anyOf", "oneOf", "pattern", "format", "minLength", "maxLength", "multipleOf", "enum", "const")
_COMBINES = ("allOf", "not", "patternProperties", "propertyNames", "dependentSchemas", "if", "then", "else")
_TEXT_LENGTHS = {"minLength", "maxLength"}


def needs_trial(schema: Any) -> bool:
    """Whether any of the schema's values is described more than once."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            keywords = {key for key in _COMBINED if key in node}
            is_combined = len(keywords) > 1 and keywords != _TEXT_LENGTHS
            beside = keywords & {"$ref", "anyOf", "oneOf"} and ("properties" in node or "items" in node)
            if is_combined or beside or any(key in node for key in _COMBINES):
                return True
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return False


class Turns:
    """Work for several projects: `most` at once, `of_one` of one project, so that none waits for all of another's; and
    one place less for all those together that were slow lately, so that the others find one free."""

    def __init__(self, most: int, of_one: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places, self._of_one = asyncio.Semaphore(most), of_one
        self._places_of_slow = asyncio.Semaphore(max(1, most - 1))
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._slow: OrderedDict[str, float] = OrderedDict()  # projects by when they are no longer
        self._clock = clock

    @asynccontextmanager
    async def take(self, project: str) -> AsyncGenerator[None]:
        own = self._own.setdefault(project, asyncio.Semaphore(self._of_one))
        async with AsyncExitStack() as held:
            await held.enter_async_context(own)
            if self._slow.get(project, 0) > self._clock():
                await held.enter_async_context(self._places_of_slow)
            await held.enter_async_context(self._places)
            yield

    def was_slow(self, project: str) -> None:
        self._slow[project] = self._clock() + SLOW_FOR_S
        self._slow.move_to_end(project)
        while len(self._slow) > MAX_SLOW:
            self._slow.popitem(last=False)


class Trials:
    """A few processes, which start with the first trial. `make(*arguments)`, all of it picklable, gives what then takes
    what is to be tried."""

    def __init__(self, make: Callable[..., Callable[[Any], object]], arguments: tuple[Any, ...]) -> None:
        self.time_limit_s = TIME_LIMIT_S
        self._make, self._arguments = make, arguments
        self._pool: Any = None
        self._turns = Turns(NUM_PROCESSES, 1)

    async def passes(self, tried: Any, project: str = "") -> bool:
        """False when it takes too long or too much memory. What else goes wrong does so again where it is made."""
        async with self._turns.take(project):
            future = self._started().schedule(_try, args=(tried,), timeout=self.time_limit_s)
            try:
                passed, is_slow = True, await asyncio.wrap_future(future) > SLOW_S
            except (TookTooLong, BrokenProcessPool, MemoryError):
                passed, is_slow = False, True
            except Exception:  # a process that was killed raises the library's own
                passed = not isinstance(future.exception(), _killed())
                is_slow = not passed
            if is_slow:
                self._turns.was_slow(project)
            return passed

    def _started(self) -> Any:
        if self._pool is None:
            from pebble import ProcessPool

            spawn = multiprocessing.get_context("spawn")  # a fork of a server would copy its threads' locks
            arguments = (os.getpid(), self._make, self._arguments)
            self._pool = ProcessPool(NUM_PROCESSES, initializer=_prepare, initargs=arguments, context=spawn)
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None


def _killed() -> type[Exception]:
    from pebble import ProcessExpired

    return ProcessExpired


_make_it: Callable[[Any], object] | None = None


def _prepare(parent: int, make: Callable[..., Callable[[Any], object]], arguments: tuple[Any, ...]) -> None:
    global _make_it
    end_with_parent(parent)
    _make_it = make(*arguments)
    _bound_memory()


def _bound_memory() -> None:
    if not (sizes := Path("/proc/self/statm")).exists():  # no Linux
        return
    limit = int(sizes.read_text().split()[0]) * resource.getpagesize() + MAX_BYTES
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _try(tried: Any) -> float:
    """How much of the processor it took, s."""
    assert _make_it is not None
    began = time.process_time()
    _make_it(tried)
    return time.process_time() - began
