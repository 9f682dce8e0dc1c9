"""What this processor does in a second, for `tunery doctor`: bytes read, and multiplications and additions of each type
that the engine and the trainer choose from.

Apart because nothing but the doctor measures for its own sake; it shares the kernels that it measures.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tunery.kernels import int8
from tunery.kernels.matmul_dtype import choose_matmul_dtype

_ROWS, _IN, _OUT = 256, 512, 1536
_READ_BYTES = 256 * 1024 * 1024  # more than any cache holds
_FOR_S = 0.2


@dataclass(frozen=True)
class Rates:
    instructions: str  # the widest vector unit, as torch names it: AVX512, AVX2, DEFAULT …
    byte_products: str | None  # how bytes are multiplied; None: not at all
    threads: int
    read_bytes_per_s: float
    operations_per_s: dict[str, float]  # by type; int8 only where the processor multiplies bytes
    matmul_dtype: str  # of bfloat16 weights' products


def measure() -> Rates:
    """Takes about a second; the first time on a machine also what it takes to compile the product of bytes."""
    x, weight = torch.ones(_ROWS, _IN), torch.ones(_OUT, _IN)
    products: dict[str, Callable[[], object]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        products[_name(dtype)] = _linear(x.to(dtype), weight.to(dtype))
    if int8.fits(_OUT, _IN):
        packed, y = int8.EightBit(weight, None, most=255), np.empty((_ROWS, _OUT), np.float32)
        products["int8"] = lambda: packed(x.numpy(), y)
    numbers = torch.ones(_READ_BYTES // 4)
    return Rates(
        torch.backends.cpu.get_cpu_capability(),
        int8.FORM.name if int8.FORM else None,
        torch.get_num_threads(),
        _READ_BYTES / _fastest_s(numbers.sum),
        {name: 2 * _ROWS * _IN * _OUT / _fastest_s(product) for name, product in products.items()},
        _name(choose_matmul_dtype(torch.bfloat16, "cpu")),
    )


def gpus() -> list[str]:
    """Names of those that torch can use."""
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def _linear(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object]:
    """x [N, in], weight [out, in]."""
    return lambda: torch.nn.functional.linear(x, weight)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _fastest_s(run: Callable[[], object]) -> float:
    """Of many runs: other work on the machine only ever slows one down. The first, which may compile, is left out."""
    run()
    best, until = float("inf"), time.perf_counter() + _FOR_S
    while time.perf_counter() < until:
        started_at = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started_at)
    return best
