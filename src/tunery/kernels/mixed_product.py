"""Products of float32 rows and bfloat16 weights, which are widened on their way into the registers.

Where float32 is multiplied faster than bfloat16 (kernels.matmul_dtype), a library wants all weights in float32: they
are written, read again and packed, which for a few rows takes as long as the product itself. Here a weight is read in
two bytes, once for a block of rows.

    y = x Wᵀ    blocks of rows and outputs, a vector of sums for each pair, along the inputs:     nothing is written
    g W         blocks of rows and STRIP columns, along the outputs, of a strip that was widened: it fits the cache
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from tunery.kernels.compile import ZERO, Array, as_array, inline, load, parallel
from tunery.kernels.dot_product import LANES
from tunery.kernels.vectors import FLOAT, Writer, address_of

MOST_ROWS = 384  # of more a library's products are as fast, widening included
# As many sums as fit into the registers beside what they are made of: 16 with AVX2, 32 with AVX-512.
_ROWS, _OUTS = (6, 4) if LANES == 16 else (4, 3)
_STRIP_ROWS = 12 if LANES == 16 else 6
_PANEL = 48  # outputs whose weights stay near while the rows pass by
_STRIP, _DEPTH = 2 * LANES, 256  # columns and rows of W that are widened at once: half of the first cache


def suits(rows: Tensor, weight: Tensor) -> bool:
    """Whether these products are the faster ones. rows [N, …], weight [out, in]."""
    return LANES > 0 and rows.dtype is torch.float32 and weight.dtype is torch.bfloat16 and len(rows) <= MOST_ROWS


def linear(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """out = x Wᵀ. x [N, in] and out [N, out] in float32, weight [out, in] in bfloat16; each row in one piece."""
    _linear(as_array(x), as_array(weight), as_array(out))


def times(grad: Tensor, weight: Tensor, out: Tensor, *, onto: bool = False) -> None:
    """out = g W, or with `onto` out + g W. grad [N, out], weight [out, in], out [N, in]; types as in `linear`."""
    _times(as_array(grad), as_array(weight), as_array(out), onto)


def _dots(num_rows: int) -> Callable[..., None]:
    """y[r, c] = Σ x[r, i] · w[c, i] over `length` vectors, for so many rows and _OUTS outputs."""

    @intrinsic
    def block(
        typing_context: Any, x: Any, x_stride: Any, w: Any, w_stride: Any, y: Any, y_stride: Any, length: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, x_stride, w, w_stride, y, y_stride, length = args
            write = Writer(builder, LANES)
            sums = _sums(write, num_rows, _OUTS)
            with cgutils.for_range(builder, length) as loop:
                narrow = builder.mul(loop.index, write.number(2 * LANES))
                weights = [write.bfloats(builder.add(write.row(w, w_stride, out), narrow)) for out in range(_OUTS)]
                wide = builder.mul(loop.index, write.number(4 * LANES))
                for row, own in enumerate(sums):
                    inputs = write.load(builder.add(write.row(x, x_stride, row), wide), write.floats, 4)
                    for weight, total in zip(weights, own, strict=True):
                        builder.store(write.fma(inputs, weight, builder.load(total)), total)
            for row, own in enumerate(sums):
                for out, total in enumerate(own):
                    write.store(write.total(builder.load(total)), write.at(write.row(y, y_stride, row), 4 * out))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return block


def _strips(num_rows: int) -> Callable[..., None]:
    """out[r, :] = Σ g[r, i] · strip[i, :] over `length`, for so many rows; with `onto` added to what is there."""

    @intrinsic
    def block(
        typing_context: Any, g: Any, g_stride: Any, strip: Any, out: Any, out_stride: Any, length: Any, onto: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            g, g_stride, strip, out, out_stride, length, onto = args
            write = Writer(builder, LANES)
            halves = range(_STRIP // LANES)
            sums = _sums(write, num_rows, len(halves))
            places = [
                [write.at(write.row(out, out_stride, row), 4 * LANES * half) for half in halves]
                for row in range(num_rows)
            ]
            with builder.if_then(builder.icmp_signed("!=", onto, write.number(0))):
                for own, into in zip(sums, places, strict=True):
                    for total, place in zip(own, into, strict=True):
                        builder.store(write.load(place, write.floats, 4), total)
            with cgutils.for_range(builder, length) as loop:
                first = builder.add(strip, builder.mul(loop.index, write.number(4 * _STRIP)))
                weights = [write.load(write.at(first, 4 * LANES * half), write.floats, 4) for half in halves]
                offset = builder.mul(loop.index, write.number(4))
                for row, own in enumerate(sums):
                    grad = write.splat(write.load(builder.add(write.row(g, g_stride, row), offset), FLOAT, 4))
                    for weight, total in zip(weights, own, strict=True):
                        builder.store(write.fma(grad, weight, builder.load(total)), total)
            for own, into in zip(sums, places, strict=True):
                for total, place in zip(own, into, strict=True):
                    write.store(builder.load(total), place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return block


def _sums(write: Writer, num_rows: int, num_columns: int) -> list[list[Any]]:
    """Vectors that begin as zeros; LLVM keeps them in registers."""
    sums = [[cgutils.alloca_once(write.builder, write.floats) for _ in range(num_columns)] for _ in range(num_rows)]
    for total in (total for own in sums for total in own):
        write.builder.store(write.zeros, total)
    return sums


def _for_rows(make: Callable[[int], Callable[..., None]], most: int) -> Any:
    """A function for the loops below: the block of `most` rows, or of as many as are left. It gives how many."""
    block = make(most)
    if most == 1:

        @inline
        def one(left: int, a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> int:
            block(a, b, c, d, e, f, g)
            return 1

        return one
    fewer = _for_rows(make, most - 1)

    @inline
    def some(left: int, a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> int:
        if left >= most:
            block(a, b, c, d, e, f, g)
            return most
        return fewer(left, a, b, c, d, e, f, g)

    return some


_dot_block, _strip_block = _for_rows(_dots, _ROWS), _for_rows(_strips, _STRIP_ROWS)


@parallel
def _linear(x: Array, w: Array, y: Array) -> None:
    """x [N, in], w [out, in], y [N, out]."""
    num_rows, num_in = x.shape
    num_out, length = len(w), num_in // LANES
    strides, places = (x.strides[0], w.strides[0], y.strides[0]), (address_of(x), address_of(w), address_of(y))
    for panel in prange((num_out + _PANEL - 1) // _PANEL):
        first, end = panel * _PANEL, min((panel + 1) * _PANEL, num_out)
        last = end - (end - first) % _OUTS  # of those in blocks
        for row in range(0, num_rows, _ROWS):
            left = min(num_rows - row, _ROWS)
            for out in range(first, last, _OUTS):
                _dot_block(
                    left, places[0] + row * strides[0], strides[0], places[1] + out * strides[1], strides[1],
                    places[2] + row * strides[2] + 4 * out, strides[2], length,
                )  # fmt: skip
            for at in range(row, row + left):
                for out in range(last, end):
                    y[at, out] = _dot(x[at], w[out], 0, length * LANES)
                if length * LANES < num_in:
                    for out in range(first, end):
                        y[at, out] += _dot(x[at], w[out], length * LANES, num_in)


@inline
def _dot(x: Array, w: Array, start: int, end: int) -> Any:
    """Of a part of x and w, both [in]."""
    total = ZERO
    for i in range(start, end):
        total += x[i] * load(w[i])
    return total


@parallel
def _times(grad: Array, w: Array, y: Array, onto: bool) -> None:
    """grad [N, out], w [out, in], y [N, in]."""
    num_rows, num_out = grad.shape
    num_in, stride, place = w.shape[1], grad.strides[0], address_of(grad)
    for strip in prange((num_in + _STRIP - 1) // _STRIP):
        first, width = strip * _STRIP, min(_STRIP, num_in - strip * _STRIP)
        wide = np.zeros((_DEPTH, _STRIP), np.float32)
        edge = np.zeros((num_rows if width < _STRIP else 0, _STRIP), np.float32)  # what the last strip is too wide for
        into = edge if width < _STRIP else y[:, first : first + _STRIP]
        for start in range(0, num_out, _DEPTH):
            depth = min(_DEPTH, num_out - start)
            _widen(w[start : start + depth, first : first + width], wide)
            adds, row = start > 0 or (onto and width == _STRIP), 0
            while row < num_rows:
                row += _strip_block(
                    num_rows - row, place + row * stride + 4 * start, stride, address_of(wide),
                    address_of(into[row:]), into.strides[0], depth, np.int64(adds),
                )  # fmt: skip
        for row in range(len(edge)):
            for i in range(width):
                y[row, first + i] = edge[row, i] + (y[row, first + i] if onto else ZERO)


@inline
def _widen(w: Array, wide: Array) -> None:
    """w [depth, at most STRIP] → the beginning of wide."""
    if w.shape[1] == _STRIP:  # a length that is known is copied by vectors
        for row in range(len(w)):
            for i in range(_STRIP):
                wide[row, i] = load(w[row, i])
    else:
        for row in range(len(w)):
            for i in range(w.shape[1]):
                wide[row, i] = load(w[row, i])
