"""What a decode step does between its matrix products, each as one compiled loop.

One token of a few sequences is little arithmetic in many small operations: as tensor operations, some forty a layer,
they took as long as the matrix products. The loops are parallel even where one thread would do: while it works the
others fall asleep, and waking them for the next product takes longer. Arrays are those of kernels.compile.
"""

from typing import Any

import numpy as np
from numba import carray as matrix_at  # pyright: ignore[reportPrivateImportUsage] - documented so
from numba import get_num_threads, prange, types
from numba.extending import intrinsic

from tunery.kernels.compile import ZERO, Array, exp, inline, largest, load, parallel, store
from tunery.kernels.layers import norm_row

# Starts numba's threads in the thread that imports this, as torch's are, and not in the middle of a first answer.
get_num_threads()


def _to_pointer() -> Any:
    @intrinsic
    def cast(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

        return types.voidptr(types.int64), generate

    return cast


_pointer = _to_pointer()


@parallel
def add_norm(x: Array, delta: Array, share: np.float32, weight: Array, eps: np.float32, out: Array) -> None:
    """x += share · delta, out = rms_norm(x). x, delta, out [B, H]; weight [H]; share and eps float32."""
    for row in prange(x.shape[0]):
        x_row, delta_row = x[row], delta[row]
        for i in range(x.shape[1]):
            store(x_row, i, load(x_row[i]) + share * load(delta_row[i]))
        norm_row(x_row, weight, eps, out[row])


@parallel
def rotate_and_keep(
    qkv: Array, cos: Array, sin: Array, positions: Array, tables: Array, cache: Array, layer: int
) -> None:
    """Rotate queries and keys in place, and write keys and values to the cache.

    qkv [B, H + 2K, D]; cos and signed sin [T, rotary_dim], see models.rope; positions [B]; tables [B, blocks]; cache as
    in kv.py.
    """
    num_kv, block_size = cache.shape[2] // 2, cache.shape[3]
    num_rotated = qkv.shape[1] - num_kv
    half = cos.shape[1] // 2
    for row in prange(qkv.shape[0]):
        position = positions[row]
        c, s = cos[position], sin[position]
        for index in range(num_rotated):
            head = qkv[row, index]
            for i in range(half):
                low, high = load(head[i]), load(head[i + half])
                store(head, i, low * load(c[i]) + high * load(s[i]))
                store(head, i + half, high * load(c[i + half]) + low * load(s[i + half]))
        own = cache[tables[row, position // block_size], layer]
        for index in range(2 * num_kv):
            own[index, position % block_size] = qkv[row, num_rotated - num_kv + index]


@parallel
def attend(
    qkv: Array, cache: Array, layer: int, tables: Array, lengths: Array, window: int, scale: np.float32, out: Array
) -> None:
    """Each row's queries over its own blocks.

    qkv [B, H + 2K, D], of which the queries are read; cache as in kv.py; tables [B, blocks]; lengths [B]: positions to
    see, of which the last `window` only; scale float32: of the scores; out [B, H, D].
    """
    num_kv, block_size, head_dim = cache.shape[2] // 2, cache.shape[3], cache.shape[4]
    group = out.shape[1] // num_kv
    for item in prange(out.shape[0] * num_kv):
        row, kv = item // num_kv, item % num_kv
        length = lengths[row]
        hidden = max(length - window, 0)
        first_block = hidden - hidden % block_size
        scores = np.empty((group, length - hidden), np.float32)
        queries, sums = np.empty((group, head_dim), np.float32), np.zeros((group, head_dim), np.float32)
        for g in range(group):  # the queries that share a key head
            for i in range(head_dim):
                queries[g, i] = load(qkv[row, kv * group + g, i]) * scale
        for first in range(first_block, length, block_size):
            low = max(hidden - first, 0)
            keys = cache[tables[row, first // block_size], layer, kv, low : length - first]
            _score(queries, keys, scores, first + low - hidden)
        for g in range(group):
            _softmax(scores[g])
        for first in range(first_block, length, block_size):
            low = max(hidden - first, 0)
            values = cache[tables[row, first // block_size], layer, num_kv + kv, low : length - first]
            _mix(scores, first + low - hidden, values, sums)
        for g in range(group):
            for i in range(head_dim):
                store(out[row, kv * group + g], i, sums[g, i])


@inline
def _score(queries: Array, keys: Array, scores: Array, first: Any) -> None:
    """The scores of a block. queries [G, D], keys [at most a block, D], scores [G, positions]."""
    for t in range(len(keys)):
        key = keys[t]
        for g in range(queries.shape[0]):
            score = ZERO
            for i in range(queries.shape[1]):
                score += queries[g, i] * load(key[i])
            scores[g, first + t] = score


@inline
def _softmax(scores: Array) -> None:
    """In place. scores [positions]."""
    highest, total = largest(scores), ZERO
    for t in range(len(scores)):
        scores[t] = exp(scores[t] - highest)
        total += scores[t]
    for t in range(len(scores)):
        scores[t] /= total


@inline
def _mix(shares: Array, first: Any, values: Array, sums: Array) -> None:
    """What a block adds. shares [G, positions], values [at most a block, D], sums [G, D]."""
    whole = len(values) // 4 * 4
    for g in range(len(sums)):
        own = shares[g, first:]
        for t in range(0, whole, 4):
            _add_four(sums[g], own[t : t + 4], values[t], values[t + 1], values[t + 2], values[t + 3])
        for t in range(whole, len(values)):
            _add_one(sums[g], own[t], values[t])


@inline
def _add_four(sums: Array, shares: Array, v0: Array, v1: Array, v2: Array, v3: Array) -> None:
    """sums += shares · v. Four at once read and write the sums a quarter as often. sums [D], shares [4], v [D]."""
    s0, s1, s2, s3 = shares[0], shares[1], shares[2], shares[3]
    for i in range(len(sums)):
        sums[i] += s0 * load(v0[i]) + s1 * load(v1[i]) + s2 * load(v2[i]) + s3 * load(v3[i])


@inline
def _add_one(sums: Array, share: Any, values: Array) -> None:
    """sums [D], values [D]."""
    for i in range(len(sums)):
        sums[i] += share * load(values[i])


@parallel
def lora(y: Array, x: Array, tables: Array, table_of: Array, order: Array, columns: Array) -> None:
    """y = x Aᵀ B for each row's own adapter; rows that `order` leaves out stay as they are.

    order: rows of one adapter next to each other, so that the second finds its matrices in the cache: with as many
    adapters as a batch has, reading them takes most of the time.
    x [B, in], y [B, out] of a fused linear; tables [A, members or more, 3]: for each adapter and member the addresses
    of A [R, in] and of B [R, width], which hold what x holds, and R, zero where the adapter leaves the member alone;
    table_of [B]: each row's; columns [members + 1]: where each member's outputs begin.
    """
    num_members = len(columns) - 1
    for item in prange(len(order) * num_members):
        row, member = order[item // num_members], item % num_members
        table = tables[table_of[row]]
        own, rank = y[row, columns[member] : columns[member + 1]], table[member, 2]
        if rank:
            a = matrix_at(_pointer(table[member, 0]), (rank, len(x[row])), x.dtype)
            b = matrix_at(_pointer(table[member, 1]), (rank, len(own)), x.dtype)
            _product(own, x[row], a, b)
        else:
            own[:] = 0


@inline
def _product(y: Array, x: Array, a: Array, b: Array) -> None:
    """y = x Aᵀ B. x [in], y [width], a [R, in], b [R, width]."""
    inputs, total = np.empty(len(x), np.float32), np.zeros(len(y), np.float32)
    for i in range(len(x)):
        inputs[i] = load(x[i])
    shrunk = np.empty(len(a), np.float32)
    for r in range(len(a)):
        a_row, inner = a[r], ZERO
        for i in range(len(x)):
            inner += inputs[i] * load(a_row[i])
        shrunk[r] = inner
    whole = len(a) // 4 * 4
    for r in range(0, whole, 4):
        _add_four(total, shrunk[r : r + 4], b[r], b[r + 1], b[r + 2], b[r + 3])
    for r in range(whole, len(a)):
        _add_one(total, shrunk[r], b[r])
    for i in range(len(y)):
        store(y, i, total[i])
