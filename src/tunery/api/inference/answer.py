"""What a backend gives for a request that it took: an engine here, or the upstream that a name is passed on to."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """Its status is 200, its content is not yet read: all of it by `read`, or piece by piece by `chunks`."""

    read: Callable[[], Awaitable[bytes]]
    chunks: Callable[[], AsyncIterator[bytes]]
