"""How fast this machine trains: what past jobs took, or a glance at its arithmetic when there is none yet.

Past jobs stand in `<home>/speed.json`, a few for each base model and method.
"""

import json
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from tunery import atomic
from tunery.datasets.pool import num_cores

FILE = "speed.json"
KEPT = 8  # jobs remembered for each base and method
_CALIBRATION_S = 0.2
# A machine does not repeat itself: other programs run, lengths differ. Around the slowest and fastest job remembered.
_MEASURED_MARGIN = (0.5, 2.0)
# What a core of any processor computes in fp32, from the weakest to the widest. A figure outside was not measured.
_CORE_FLOP_PER_S = (1e9, 5e11)
_SIZE = 96  # of the matrices: in a core's cache, and long enough for the clock
# Of the fp32 matrix speed: bf16 units exceed it, small products and a busy machine stay far below.
_GUESSED_SHARE = (0.12, 1.6)
_GUESSED_OVERHEAD_S = (2.0, 60.0)
# Far apart on purpose: nothing torch-free tells one card from another.
_GPU_FLOP_PER_S = (5e12, 4e14)


@dataclass(frozen=True)
class PastJob:
    flop: float  # as datasets.work counts it
    training_s: float  # from the first step to the last
    overhead_s: float  # loading the model before, checking and saving after


@dataclass(frozen=True)
class Speed:
    """Bounds between which the truth most likely lies."""

    slowest: float  # FLOP/s
    fastest: float
    least_overhead_s: float
    most_overhead_s: float
    num_jobs: int  # 0: guessed

    def seconds(self, flop: float) -> tuple[float, float]:
        return flop / self.fastest + self.least_overhead_s, flop / self.slowest + self.most_overhead_s


def speed_of(home: Path | None, source: str, method: str) -> Speed:
    """From the jobs that were trained on this base by this method in this home, else from a calibration of 0.2 s."""
    jobs = _read(home).get(_key(source, method), []) if home else []
    return measured(jobs) if jobs else guessed()


def measured(jobs: list[PastJob]) -> Speed:
    low, high = _MEASURED_MARGIN
    rates = [job.flop / max(job.training_s, 1e-3) for job in jobs]
    overheads = [job.overhead_s for job in jobs]
    least = min(overheads) * low
    if len(jobs) == 1:  # perhaps the first of an installation: it compiles, for as long as a small job lasts
        least = min(least, _GUESSED_OVERHEAD_S[0])
    return Speed(min(rates) * low, max(rates) * high, least, max(overheads) * high + 3.0, len(jobs))


def guessed() -> Speed:
    if Path("/proc/driver/nvidia").exists():
        return Speed(*_GPU_FLOP_PER_S, *_GUESSED_OVERHEAD_S, num_jobs=0)
    low, high = _GUESSED_SHARE
    rate = matrix_flop_per_s()
    return Speed(rate * low, rate * high, *_GUESSED_OVERHEAD_S, num_jobs=0)


@lru_cache(maxsize=1)
def matrix_flop_per_s() -> float:
    """fp32 products on one core, times the cores. Measured once a process, so that two estimates of one file agree.

    On one thread: those of a BLAS wait for each other, and on a busy machine a product of microseconds then takes
    milliseconds. The best of many short products counts, by the thread's own processor time: what other programs take
    meanwhile is not the processor's speed.
    """
    left = np.ones((_SIZE, _SIZE), dtype=np.float32)
    best = float("inf")
    with threadpool_limits(1, "blas"):
        end = time.perf_counter() + _CALIBRATION_S
        while time.perf_counter() < end:
            best = min(best, _seconds(left))
    low, high = _CORE_FLOP_PER_S
    return min(max(2 * _SIZE**3 / best, low), high) * num_cores()


def _seconds(left: np.ndarray, times: int = 8) -> float:
    """Of one product, whichever clock shows less: that of the processor may tick too slowly to see one. left [n, n]."""
    wall, processor = time.perf_counter(), time.thread_time()
    for _ in range(times):
        np.matmul(left, left)
    wall, processor = time.perf_counter() - wall, time.thread_time() - processor
    return (min(wall, processor) if processor > 0 else wall) / times


def record(home: Path, source: str, method: str, job: PastJob) -> None:
    """Remember a finished job. Written by rename: a reader sees the old file or the new one."""
    known = _read(home)
    key = _key(source, method)
    known[key] = [*known.get(key, []), job][-KEPT:]
    document = {name: [asdict(past) for past in jobs] for name, jobs in known.items()}
    home.mkdir(parents=True, exist_ok=True)
    atomic.write_text(home / FILE, json.dumps(document, indent=1))


def _read(home: Path) -> dict[str, list[PastJob]]:
    """What is remembered; nothing when the file is missing or damaged, since it only speeds up a guess."""
    try:
        document: dict[str, list[dict[str, Any]]] = json.loads((home / FILE).read_text("utf-8"))
        return {key: [PastJob(**past) for past in jobs] for key, jobs in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _key(source: str, method: str) -> str:
    return f"{source}|{method}"
