"""What a process settles before its libraries are loaded, by their environment variables. Imports none of them."""

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

_HUGE_PAGES = "glibc.malloc.hugetlb"
# A second cache of oneDNN's, of descriptions, lies before the first. It needs as many as a layer has matmuls of one
# length.
_DESCRIPTIONS = 8


# What an older processor than this one has, as numba, torch, oneDNN and MKL are told.
_OF_OLDER = {
    "avx512": ("x86-64-v4", "+avx2,+avx512bw", "avx512", "AVX512_CORE", "AVX512"),
    "avx2": ("x86-64-v3", "+avx2", "avx2", "AVX2", "AVX2"),
    "plain": ("x86-64", "", "default", "SSE41", "SSE4_2"),
}


def instructions(limit: str) -> dict[str, str]:
    """The environment in which compiled loops and libraries use no newer instructions than those of `limit`: avx512
    (without VNNI), avx2 or plain; auto: all that the processor has. Other kinds of processors have one form only."""
    if limit == "auto" or platform.machine().lower() not in ("x86_64", "amd64"):
        return {}
    names = (
        "NUMBA_CPU_NAME",
        "NUMBA_CPU_FEATURES",
        "ATEN_CPU_CAPABILITY",
        "ONEDNN_MAX_CPU_ISA",
        "MKL_ENABLE_INSTRUCTIONS",
    )
    return dict(zip(names, _OF_OLDER[limit], strict=True))


def share_threads() -> None:
    """How torch's threads wait for each other. Before torch is imported: OpenMP reads this once, when it is loaded.

    By default a thread that has finished its share spins for milliseconds. When the trainer or anything else has the
    other core meanwhile, every operation then waits for the operating system: with two busy neighbours on two cores a
    step of one answer took 1,300 ms, and 50 ms with this. The count bridges the gap between two operations and no more.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Compiled loops then run on torch's own threads; a second set costs 60 us a loop, more than most loops take.
    os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp tbb workqueue")


def use_huge_pages() -> None:
    """Weights in pages of two megabytes, where the system gives them on request. Begins this process again with them
    unless that is settled: glibc reads its settings when a process starts.

    A decode step reads all weights once. In pages of four kilobytes it then waits for the tables of addresses, too: a
    step of sixteen rows took a tenth longer.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and _HUGE_PAGES not in given:
        os.environ["GLIBC_TUNABLES"] = f"{given}:{_HUGE_PAGES}=1".removeprefix(":")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the same program again


def give_way() -> None:
    """Let every other process go first, in this one and those that it starts. Its session must be its own.

    Linux shares the processor among sessions before it looks at what is nice within one (autogroup, sched(7)).
    """
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    with suppress(OSError):  # a kernel without sessions' shares, or another system
        Path("/proc/self/autogroup").write_text("19")


def keep_matmuls(count: int) -> None:
    """How many compiled matmuls oneDNN keeps on a CPU. Before the first of them; what is set already stays.

    It compiles one for every shape that it meets, and by default keeps a thousand: half a megabyte each, a gigabyte
    and more after as many batches or prompts of different lengths.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(count))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(_DESCRIPTIONS))
