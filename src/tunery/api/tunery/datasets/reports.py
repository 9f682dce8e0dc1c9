"""The latest reports, so that whoever checks a file and then asks for an estimate does not wait for both; and the turns
of those who look through large files, so that the rest of the API keeps its threads.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

from tunery.datasets.report import Report
from tunery.domain.errors import Unavailable
from tunery.texts import say

MAX_KEPT = 4  # a report on a large file holds some 30 MB
LARGE_BYTES = 4 * 1024 * 1024  # smaller files are done in about a second and need no turn
MAX_AT_ONCE = 2  # large files in work; each uses all cores
WAIT_S = 5.0


@dataclass(frozen=True)
class ReportKey:
    """All that a report depends on. A file's content never changes, so its id stands for it."""

    file_id: str
    model_source: str | None
    completes: bool
    max_example_tokens: int | None
    method: str | None
    role: str
    against: str | None  # the training file's id


T = TypeVar("T")
Steps = Generator[int, None, Report]
"""Yields the bytes examined so far, returns the report."""


class ReportCache:
    """One for the process. Safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: LRUCache[ReportKey, Report] = LRUCache(MAX_KEPT)
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(MAX_AT_ONCE)

    def steps(self, key: ReportKey, num_bytes: int, make: Callable[[], Steps]) -> Steps:
        """The kept report at once, or that of `make`. Raises Unavailable when its turn does not come soon."""
        found = self._find(key)
        if found is not None:
            return found
        with self.turn(num_bytes):
            found = self._find(key)  # somebody else may have made it meanwhile
            if found is None:
                found = yield from make()
                self._keep(key, found)
            return found

    @contextmanager
    def turn(self, num_bytes: int) -> Iterator[None]:
        """Hold one for as long as a file of this size is in work."""
        if num_bytes < LARGE_BYTES:
            yield
            return
        if not self._turns.acquire(timeout=WAIT_S):
            raise Unavailable(
                say("error.checks_busy"),
                code="slow_down",
                headers={"retry-after": "10"},
            )
        try:
            yield
        finally:
            self._turns.release()

    def _find(self, key: ReportKey) -> Report | None:
        with self._lock:
            return self._kept.get(key)

    def _keep(self, key: ReportKey, report: Report) -> None:
        with self._lock:
            self._kept[key] = report


def drain(steps: Generator[Any, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


class Running(Generic[T]):
    """A validation, or other steps that give something at the end, in a thread of its own: whoever watches it slowly,
    or leaves, does not hold it up."""

    def __init__(self, steps: Generator[int, None, T]) -> None:
        self._steps = steps
        self._left = threading.Event()
        self._done = threading.Event()
        self.num_bytes = 0
        self.report: T | None = None
        self.error: Exception | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Whether it is done: `report` or `error` is there."""
        return self._done.wait(seconds)

    def leave(self) -> None:
        """Nobody wants the report any more: it ends after the step it is in."""
        self._left.set()

    def _run(self) -> None:
        try:
            while not self._left.is_set():
                self.num_bytes = next(self._steps)
            self._steps.close()
        except StopIteration as done:
            self.report = done.value
        except Exception as exc:  # told to the watcher, in its thread
            self.error = exc
        finally:
            self._done.set()
