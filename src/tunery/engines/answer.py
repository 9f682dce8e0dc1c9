"""What a backend gives for a request that it took: an engine here, or the upstream that a name is passed on to."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """Its status is 200, its content is not yet read: all of it by `read`, or piece by piece by `chunks`.

    `ends_with_usage`: also for a client that has gone the content is read to its end, since that says what it cost.
    Otherwise it is closed, and what has been received is counted.
    """

    read: Callable[[], Awaitable[bytes]]
    chunks: Callable[[], AsyncIterator[bytes]]
    ends_with_usage: bool = True
