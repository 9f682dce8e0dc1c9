"""What a decode step does between its matrix products, each as one compiled loop.

One token of a few sequences is little arithmetic in many small operations: as tensor operations, some forty a layer,
they took as long as the matrix products. numba compiles these loops once and keeps the result beside this file.

Arrays are float32, or uint16 that hold bfloat16 (numpy has no such type); between loading and storing everything is
float32. Sums may be reordered, but numbers that are no numbers stay so: a broken adapter must be noticed.

Loops marked parallel share torch's threads where both use the system's OpenMP, as on Linux.
"""

from typing import Any

import numpy as np
from numba import carray as matrix_at  # pyright: ignore[reportPrivateImportUsage] - documented so
from numba import get_num_threads, njit, prange, set_num_threads, types
from numba.extending import intrinsic, overload

Array = np.ndarray[Any, Any]

_FAST = {"reassoc", "contract", "nsz", "arcp"}
_kernel = njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", boundscheck=False)
_parallel = njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", boundscheck=False, parallel=True)
_inline = njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy", inline="always")


_MAX_THREADS: int = get_num_threads()


def use_threads(count: int) -> None:
    """How many threads the calling thread's parallel loops use."""
    set_num_threads(min(count, _MAX_THREADS))


_ONE, _ZERO, _HALF = np.float32(1), np.float32(0), np.float32(0.5)
_LOWEST = np.float32(-3.4e38)


def _bitcast(source: Any, target: Any) -> Any:
    @intrinsic
    def cast(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), generate

    return cast


_float_of_bits = _bitcast(types.uint32, types.float32)
_bits_of_float = _bitcast(types.float32, types.uint32)


def _to_pointer() -> Any:
    @intrinsic
    def cast(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

        return types.voidptr(types.int64), generate

    return cast


_pointer = _to_pointer()


def _load(value: Any) -> Any:
    """A stored number as float32. Exists in compiled code only, as does _store."""
    raise NotImplementedError


def _store(array: Array, index: Any, value: Any) -> None:
    """array[index] = value, rounded to the nearest even bfloat16 where the array holds those."""
    raise NotImplementedError


@overload(_load, inline="always")
def _load_overload(value: Any) -> Any:
    def as_it_is(value: Any) -> Any:
        return value

    def widened(value: Any) -> Any:
        return _float_of_bits(np.uint32(value) << np.uint32(16))

    return as_it_is if isinstance(value, types.Float) else widened


@overload(_store, inline="always")
def _store_overload(array: Any, index: Any, value: Any) -> Any:
    def as_it_is(array: Any, index: Any, value: Any) -> None:
        array[index] = value

    def rounded(array: Any, index: Any, value: Any) -> None:
        bits = _bits_of_float(value)
        array[index] = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)

    return as_it_is if isinstance(array.dtype, types.Float) else rounded


_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP = tuple(
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_EXP_LOW, _EXP_HIGH = np.float32(-87.3), np.float32(88.3)


@_inline
def _exp(x: Any) -> Any:
    """e^x in float32 after Cephes' expf: without branches, so that a loop of it uses the vector unit."""
    x = _EXP_LOW if x < _EXP_LOW else x
    x = _EXP_HIGH if x > _EXP_HIGH else x
    n = np.floor(x * _LOG2_E + _HALF)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    y = ((((_EXP[0] * r + _EXP[1]) * r + _EXP[2]) * r + _EXP[3]) * r + _EXP[4]) * r + _EXP[5]
    y = y * r * r + r + _ONE
    return y * _float_of_bits(np.uint32(np.int32(n) + np.int32(127)) << np.uint32(23))


@_kernel
def add_norm(x: Array, delta: Array, weight: Array, eps: np.float32, out: Array) -> None:
    """x += delta, out = rms_norm(x). x, delta, out [B, H]; weight [H]; eps float32."""
    for row in range(x.shape[0]):
        x_row, delta_row, out_row = x[row], delta[row], out[row]
        squares = _ZERO
        for i in range(x.shape[1]):
            _store(x_row, i, _load(x_row[i]) + _load(delta_row[i]))
            value = _load(x_row[i])
            squares += value * value
        scale = _ONE / np.sqrt(squares / np.float32(x.shape[1]) + eps)
        for i in range(x.shape[1]):
            _store(out_row, i, _load(x_row[i]) * scale * _load(weight[i]))


@_kernel
def norm_heads(heads: Array, weight: Array, eps: np.float32) -> None:
    """rms_norm of each head in place, for models that have one. heads [B, H, D]; weight [D]; eps float32."""
    for row in range(heads.shape[0]):
        for index in range(heads.shape[1]):
            head = heads[row, index]
            squares = _ZERO
            for i in range(heads.shape[2]):
                squares += _load(head[i]) * _load(head[i])
            scale = _ONE / np.sqrt(squares / np.float32(heads.shape[2]) + eps)
            for i in range(heads.shape[2]):
                _store(head, i, _load(head[i]) * scale * _load(weight[i]))


@_kernel
def rotate_and_keep(qkv: Array, cos: Array, sin: Array, positions: Array, slots: Array, cache: Array) -> None:
    """Rotate queries and keys in place, and write keys and values to the cache.

    qkv [B, H + 2K, D]; cos and signed sin [T, D], see rope.py; positions and slots [B]; cache [2K, slots, D].
    """
    num_kv = cache.shape[0] // 2
    num_rotated = qkv.shape[1] - num_kv
    half = qkv.shape[2] // 2
    for row in range(qkv.shape[0]):
        c, s, slot = cos[positions[row]], sin[positions[row]], slots[row]
        for index in range(num_rotated):
            head = qkv[row, index]
            for i in range(half):
                low, high = _load(head[i]), _load(head[i + half])
                _store(head, i, low * _load(c[i]) + high * _load(s[i]))
                _store(head, i + half, high * _load(c[i + half]) + low * _load(s[i + half]))
        for index in range(2 * num_kv):
            cache[index, slot] = qkv[row, num_rotated - num_kv + index]


@_parallel
def attend(qkv: Array, cache: Array, tables: Array, lengths: Array, block_size: int, out: Array) -> None:
    """Each row's queries over its own blocks.

    qkv [B, H + 2K, D], of which the queries are read; cache [2K, slots, D]; tables [B, blocks]; lengths [B]: positions
    to see; out [B, H, D].
    """
    num_kv, head_dim = cache.shape[0] // 2, cache.shape[2]
    group = out.shape[1] // num_kv
    scale = _ONE / np.sqrt(np.float32(head_dim))
    for item in prange(out.shape[0] * num_kv):
        row, kv = item // num_kv, item % num_kv
        slots = np.empty(lengths[row], np.int64)
        for t in range(len(slots)):
            slots[t] = tables[row, t // block_size] * block_size + t % block_size
        scores = np.empty((group, len(slots)), np.float32)
        heads = np.empty((group, head_dim), np.float32)  # the queries that share a key head, then what they see
        for g in range(group):
            for i in range(head_dim):
                heads[g, i] = _load(qkv[row, kv * group + g, i]) * scale
        _score(heads, cache[kv], slots, scores)
        for g in range(group):
            _softmax(scores[g])
        _mix(scores, cache[num_kv + kv], slots, heads)
        for g in range(group):
            for i in range(head_dim):
                _store(out[row, kv * group + g], i, heads[g, i])


@_inline
def _score(queries: Array, keys: Array, slots: Array, scores: Array) -> None:
    for t in range(len(slots)):
        key = keys[slots[t]]
        for g in range(queries.shape[0]):
            score = _ZERO
            for i in range(queries.shape[1]):
                score += queries[g, i] * _load(key[i])
            scores[g, t] = score


@_inline
def _softmax(scores: Array) -> None:
    highest = _LOWEST
    for t in range(len(scores)):
        highest = scores[t] if scores[t] > highest else highest
    total = _ZERO
    for t in range(len(scores)):
        scores[t] = _exp(scores[t] - highest)
        total += scores[t]
    for t in range(len(scores)):
        scores[t] /= total


@_inline
def _mix(shares: Array, values: Array, slots: Array, sums: Array) -> None:
    sums[:] = _ZERO
    for t in range(len(slots)):
        value = values[slots[t]]
        for g in range(sums.shape[0]):
            share = shares[g, t]
            for i in range(sums.shape[1]):
                sums[g, i] += share * _load(value[i])


@_kernel
def gate(gate_up: Array, out: Array) -> None:
    """silu(gate) · up. gate_up [B, 2I], out [B, I]."""
    inner = out.shape[1]
    for row in range(out.shape[0]):
        both, out_row = gate_up[row], out[row]
        for i in range(inner):
            value = _load(both[i])
            _store(out_row, i, value / (_ONE + _exp(-value)) * _load(both[i + inner]))


@_parallel
def add_lora(y: Array, x: Array, parts: Array, columns: Array) -> None:
    """y += x Aᵀ B for each row's own adapter, where it has one.

    x [B, in], y [B, out] of a fused linear; parts [B, members, 3]: for each member the addresses of A [R, in] and of B
    [R, width], which hold what x holds, and R, zero where the adapter leaves the member alone; columns [members + 1]:
    where each member's outputs begin.
    """
    num_members = parts.shape[1]
    for item in prange(x.shape[0] * num_members):
        row, member = item // num_members, item % num_members
        rank = parts[row, member, 2]
        if rank:
            own = y[row, columns[member] : columns[member + 1]]
            a = matrix_at(_pointer(parts[row, member, 0]), (rank, len(x[row])), x.dtype)
            b = matrix_at(_pointer(parts[row, member, 1]), (rank, len(own)), x.dtype)
            _add_product(own, x[row], a, b)


@_inline
def _add_product(y: Array, x: Array, a: Array, b: Array) -> None:
    """y += x Aᵀ B. x [in], y [width], a [R, in], b [R, width]."""
    inputs, total = np.empty(len(x), np.float32), np.zeros(len(y), np.float32)
    for i in range(len(x)):
        inputs[i] = _load(x[i])
    for r in range(len(a)):
        a_row, b_row, shrunk = a[r], b[r], _ZERO
        for i in range(len(x)):
            shrunk += inputs[i] * _load(a_row[i])
        for i in range(len(y)):
            total[i] += shrunk * _load(b_row[i])
    for i in range(len(y)):
        _store(y, i, _load(y[i]) + total[i])
