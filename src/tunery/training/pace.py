"""How often something that costs time may be done. Needs no torch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHARE = 0.02  # of the time


class Pace:
    """Due at once, and then as soon as what it cost last is at most SHARE of the time since, yet no sooner than after
    `least_s` seconds."""

    def __init__(self, least_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._least_s, self._clock = least_s, clock
        self._due_at: float | None = None

    def is_due(self) -> bool:
        return self._due_at is None or self._clock() >= self._due_at

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around what is done: the time it takes decides when it is due again."""
        begun = self._clock()
        yield
        ended = self._clock()
        self._due_at = ended + max(self._least_s, (ended - begun) / SHARE)
