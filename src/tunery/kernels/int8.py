"""Linear layers on bytes: weights as 8-bit steps, inputs rounded to 8 bits, sums exact.

Groups of 32 weights of an output share a scale and a lowest value, groups of 32 inputs of a row a scale. Rows know
nothing of each other, so a row's result is the same to the bit whatever it is computed with.
"""

from math import prod
from typing import Any

import numpy as np
import torch
from numba import prange

from tunery.kernels.compile import (
    ZERO,
    Array,
    as_array,
    bits_of_float,
    float_of_bits,
    inline,
    kernel,
    load,
    parallel,
    store,
)
from tunery.kernels.dot_product import FORM, GROUP, HAS_VNNI, LANES, MOST_ROWS, SMALL, block_product
from tunery.kernels.vectors import address_of

_MOST, _TINY = np.float32(127), np.float32(1e-30)


def is_available() -> bool:
    """Whether this processor multiplies bytes."""
    return FORM is not None


def fits(num_out: int, num_in: int) -> bool:
    """Whether a layer of this shape divides into blocks and groups."""
    return FORM is not None and num_out % LANES == 0 and num_in % GROUP == 0


class EightBit:
    """y = x Wᵀ + b for a frozen W [out, in] that `fits`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, most: int) -> None:
        """`most`: the largest step; 15 keeps what came out of a 4-bit file as it was. weight [out, in], bias [out]."""
        num_out, num_in = weight.shape
        blocks, groups = num_out // LANES, num_in // GROUP
        self._steps = _aligned((blocks, num_in // 4, LANES, 4), torch.uint8)
        self._scales, self._lows = (_aligned((blocks, groups, LANES), torch.bfloat16) for _ in range(2))
        into = as_array(self._steps), as_array(self._scales), as_array(self._lows)
        pack(as_array(weight.contiguous()), np.float32(most), *into)
        self._is_widened = most > SMALL and not HAS_VNNI
        self._addresses = self._steps.data_ptr(), self._scales.data_ptr(), self._lows.data_ptr()
        self._bias = np.zeros(num_out, np.float32) if bias is None else bias.float().numpy()

    def __call__(self, x: Array, y: Array, *, onto: bool = False) -> None:
        """x [N, in], y [N, out]: float32, or uint16 that hold bfloat16. `onto`: to what y holds, rounded once."""
        multiply(x, *self._addresses, self._bias, y, onto, self._is_widened, torch.get_num_threads())


def group_steps(
    weight: torch.Tensor, most: int, *, kept_in: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """steps [out, in] in 0…most, scale and low [out, in / 32] as they will be kept: weight ≈ step · scale + low."""
    groups = weight.float().view(len(weight), -1, GROUP)
    low = groups.amin(-1)
    scale = (groups.amax(-1) - low).div(most).clamp(min=1e-12).to(kept_in).float()
    low = low.to(kept_in).float()
    steps = ((groups - low.unsqueeze(-1)) / scale.unsqueeze(-1)).round().clamp(0, most)
    return steps.view(weight.shape), scale, low


def _aligned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory at an address that the vector unit reads at once. Of any shape."""
    size = prod(shape) * dtype.itemsize
    room = torch.empty(size + 64, dtype=torch.uint8)
    first = -room.data_ptr() % 64
    return room[first : first + size].view(dtype).view(shape)


@kernel
def pack(weight: Array, most: np.float32, steps: Array, scales: Array, lows: Array) -> None:
    """Weights [out, in] in the layout of block_product; the others begin with the blocks [out / LANES]."""
    for row in range(weight.shape[0]):
        block, lane = row // LANES, row % LANES
        for group in range(weight.shape[1] // GROUP):
            own = weight[row, group * GROUP : (group + 1) * GROUP]
            low = high = total = load(own[0])
            for i in range(1, GROUP):
                low, high = min(low, load(own[i])), max(high, load(own[i]))
                total += load(own[i])
            scale = max((high - low) / most, np.float32(1e-12))
            if total != total:  # a comparison passes over what is no number
                scale = total
            store(scales[block, group], lane, scale)
            store(lows[block, group], lane, low)
            # Steps of what was stored, or the error of a rounded `low` would be that of all 32 and add up.
            scale, low = load(scales[block, group, lane]), load(lows[block, group, lane])
            for i in range(GROUP):
                step = np.rint((load(own[i]) - low) / scale)
                place = group * GROUP + i
                steps[block, place // 4, lane, place % 4] = np.uint8(min(max(step, ZERO), most))


def _rows_product(*, widened: bool) -> Any:
    """A function for the loop below."""
    one_row, two_rows, four_rows, eight_rows = (block_product(count, widened=widened) for count in (1, 2, 4, 8))

    @inline
    def product(
        most: int, steps: int, scales: int, lows: int, inputs: Array, input_scales: Array, input_sums: Array, out: Array
    ) -> int:
        """A block for as many of these rows as are computed at once: gives how many.

        inputs [rows, in], input_scales and input_sums [rows, in / 32], out [rows at once, LANES].
        """
        num_groups = inputs.shape[1] // GROUP
        of_inputs, of_scales = address_of(inputs), address_of(input_scales)
        of_sums, into = address_of(input_sums), address_of(out)
        if most >= 8 and MOST_ROWS == 8:
            eight_rows(steps, scales, lows, of_inputs, of_scales, of_sums, into, num_groups)
            return 8
        if most >= 4:
            four_rows(steps, scales, lows, of_inputs, of_scales, of_sums, into, num_groups)
            return 4
        if most >= 2:
            two_rows(steps, scales, lows, of_inputs, of_scales, of_sums, into, num_groups)
            return 2
        one_row(steps, scales, lows, of_inputs, of_scales, of_sums, into, num_groups)
        return 1

    return product


_product, _widened_product = _rows_product(widened=False), _rows_product(widened=True)


@parallel
def multiply(
    x: Array, steps: int, scales: int, lows: int, bias: Array, y: Array, onto: bool, widened: bool, num_threads: int
) -> None:
    """y = x Wᵀ + b, or with `onto` y + x Wᵀ + b. x [N, in], y [N, out], bias [out] fp32.

    The addresses: block by block, those of block_product.
    """
    num_rows, num_in = x.shape
    num_groups, num_blocks = num_in // GROUP, y.shape[1] // LANES
    for thread in prange(num_threads):
        first_block, last_block = num_blocks * thread // num_threads, num_blocks * (thread + 1) // num_threads
        if first_block == last_block:
            continue
        # Each thread rounds the inputs for itself: that is shorter than waiting for each other.
        integers = np.empty((num_rows, num_in), np.int8)
        shorts = np.empty((num_rows if widened else 0, num_in), np.int16)
        input_scales = np.empty((num_rows, num_groups), np.float32)
        input_sums = np.empty((num_rows, num_groups), np.float32)
        for row in range(num_rows):
            round_row(x[row], integers[row], input_scales[row], input_sums[row])
            if widened:
                _widen_row(integers[row], shorts[row])
        out = np.empty((MOST_ROWS, LANES), np.float32)
        for block in range(first_block, last_block):
            of_steps, of_scales = block * num_in * LANES, block * num_groups * LANES * 2
            first = 0
            while first < num_rows:
                if widened:
                    count = _widened_product(
                        num_rows - first, steps + of_steps, scales + of_scales, lows + of_scales,
                        shorts[first:], input_scales[first:], input_sums[first:], out,
                    )  # fmt: skip
                else:
                    count = _product(
                        num_rows - first, steps + of_steps, scales + of_scales, lows + of_scales,
                        integers[first:], input_scales[first:], input_sums[first:], out,
                    )  # fmt: skip
                for row in range(count):
                    own = y[first + row]
                    if onto:
                        for lane in range(LANES):
                            column = block * LANES + lane
                            store(own, column, load(own[column]) + (out[row, lane] + bias[column]))
                    else:
                        for lane in range(LANES):
                            column = block * LANES + lane
                            store(own, column, out[row, lane] + bias[column])
                first += count


@inline
def round_row(x: Array, integers: Array, scales: Array, sums: Array) -> None:
    """x ≈ integers · scales by group. x, integers [in], scales, sums [in / 32]: a group's sum of what it became."""
    for group in range(len(scales)):
        own, into = x[group * GROUP : (group + 1) * GROUP], integers[group * GROUP : (group + 1) * GROUP]
        top = np.uint32(0)
        for i in range(GROUP):  # as integers: see kernels.compile.largest
            top = max(top, bits_of_float(load(own[i])) & np.uint32(0x7FFFFFFF))
        highest = float_of_bits(top)
        up, total = _MOST / max(highest, _TINY), np.int32(0)
        for i in range(GROUP):
            value = np.int32(np.rint(load(own[i]) * up))
            into[i] = value
            total += value
        scales[group] = highest / _MOST
        sums[group] = scales[group] * np.float32(total)


@inline
def _widen_row(integers: Array, shorts: Array) -> None:
    """int8 [in] → int16 [in], in the order that block_product reads them."""
    for four in range(0, len(integers), 4):
        shorts[four], shorts[four + 1] = integers[four], integers[four + 2]
        shorts[four + 2], shorts[four + 3] = integers[four + 1], integers[four + 3]
