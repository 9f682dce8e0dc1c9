"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(look: Callable[[], T | None], timeout_s: float = 30) -> T:
    """The first thing that look() gives that is not None. Fails when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while (found := look()) is None:
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)
    return found
