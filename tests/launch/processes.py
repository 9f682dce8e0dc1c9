"""What Linux tells of processes."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def is_running(pid: int) -> bool:
    """A zombie runs no more; in a container nobody may ever collect it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children_of(pid: int) -> list[int]:
    """The running descendants. Threads and processes that end while this looks are passed over."""
    found: list[int] = []
    for child in _children(pid):
        found += [child, *children_of(child)]
    return [child for child in found if is_running(child)]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path("/proc").glob(f"{pid}/task/*"):
        with suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def wait_for(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
