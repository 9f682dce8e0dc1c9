"""Weights in pages of two megabytes, where the system gives them on request.

A decode step reads all weights once. In pages of four kilobytes it then waits for the tables of addresses, too: a step
of sixteen rows took a tenth longer.
"""

import os
import sys

_NAME = "glibc.malloc.hugetlb"


def use() -> None:
    """Begin this process again with them unless that is settled: glibc reads its settings when a process starts."""
    given = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and _NAME not in given:
        os.environ["GLIBC_TUNABLES"] = f"{given}:{_NAME}=1".removeprefix(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the same program again
