"""Which type the matrix products of bfloat16 weights are computed in.

Processors without bfloat16 instructions, and some whose instructions are slow, multiply float32 two to five times as
fast. There the operands of a product are widened and its result is rounded, which is what a bfloat16 unit does as well:
its sums are float32.
"""

import time

import torch

# Widening costs some of the gain. Choices so near each other do not matter, but must not change with the weather.
CLEARLY = 1.3
BEYOND_DOUBT = 4.0  # where bfloat16 is not multiplied but imitated: no need to wait for more of it
_ROWS, _IN, _OUT, _TIMES = 256, 512, 1536, 6


def choose_matmul_dtype(dtype: torch.dtype, device: str) -> torch.dtype:
    """float32 for bfloat16 weights where this processor clearly multiplies it faster, else the weights' own type."""
    if dtype is not torch.bfloat16 or device != "cpu":
        return dtype
    narrow, wide = _Trial(torch.bfloat16), _Trial(torch.float32)
    for _ in range(_TIMES):  # in turn, so that other load hits both
        wide.run()
        narrow.run()
        if narrow.best_s > BEYOND_DOUBT * wide.best_s:
            break
    return torch.float32 if narrow.best_s > CLEARLY * wide.best_s else dtype


class _Trial:
    """The fastest of several products: other work on the machine only ever slows one down."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._x, self._weight = torch.ones(_ROWS, _IN, dtype=dtype), torch.ones(_OUT, _IN, dtype=dtype)
        self.best_s = float("inf")

    def run(self) -> None:
        started_at = time.perf_counter()
        torch.nn.functional.linear(self._x, self._weight)
        self.best_s = min(self.best_s, time.perf_counter() - started_at)
