"""What a fused layer does between its matrix products, forward and backward, each as one compiled loop over the tokens.

Arrays are those of kernels.compile, [N, …] by token. A result may be the first columns of wider rows: adapters have
theirs behind it. The formulas stand as tensor operations in the tests.
"""

from typing import Any

import numpy as np
from numba import prange

from tunery.kernels.compile import LOWEST, ONE, ZERO, Array, exp, inline, largest, load, parallel, store

LANES = 64
ALL = 2**31  # positions: a window that hides none
ROWS = 16  # that a thread takes at once, with one buffer


@inline
def norm_row(x: Array, weight: Array, eps: np.float32, out: Array) -> Any:
    """out = weight · x / rms(x); gives 1 / rms(x). x, weight [E], out [at least E]."""
    squares = ZERO
    for i in range(len(x)):
        squares += load(x[i]) * load(x[i])
    scale = ONE / np.sqrt(squares / np.float32(len(x)) + eps)
    for i in range(len(x)):
        store(out, i, load(x[i]) * scale * load(weight[i]))
    return scale


@inline
def gate_row(gate_up: Array, out: Array) -> None:
    """out = silu(gate) · up. gate_up [2I], out [at least I]."""
    inner = len(gate_up) // 2
    for i in range(inner):
        value = load(gate_up[i])
        store(out, i, value / (ONE + exp(-value)) * load(gate_up[i + inner]))


@parallel
def norm(x: Array, weight: Array, eps: np.float32, out: Array, inverse: Array) -> None:
    """out = weight · x / rms(x), inverse = 1 / rms(x). x [N, E], weight [E], out [N, at least E], inverse [N] fp32."""
    for row in prange(x.shape[0]):
        inverse[row] = norm_row(x[row], weight, eps, out[row])


@parallel
def norm_backward(grad: Array, x: Array, weight: Array, inverse: Array, out: Array) -> None:
    """out += the gradient of x. grad [N, at least E] of `norm`'s result, out [N, E]. The weight is frozen."""
    size = x.shape[1]
    for row in prange(x.shape[0]):
        g, x_row, own, scale = grad[row], x[row], out[row], inverse[row]
        projection = ZERO
        for i in range(size):
            projection += load(g[i]) * load(weight[i]) * load(x_row[i])
        projection *= scale * scale / np.float32(size)
        for i in range(size):
            change = scale * (load(g[i]) * load(weight[i]) - load(x_row[i]) * projection)
            store(own, i, load(own[i]) + change)


@parallel
def norm_heads(rows: Array, query: Array, key: Array, num_heads: int, num_normed: int, eps: np.float32) -> None:
    """The norm of each query and key by itself, in place. rows [N, H + 2K, D], of which H + K; query, key [D]."""
    for token in prange(rows.shape[0]):
        for index in range(num_normed):
            norm_row(rows[token, index], query if index < num_heads else key, eps, rows[token, index])


@parallel
def norm_heads_backward(
    grad: Array, rows: Array, query: Array, key: Array, num_heads: int, num_normed: int, eps: np.float32
) -> None:
    """The gradient of what `norm_heads` was given, in place of that of its result. rows: as they were before it.

    grad, rows [N, H + 2K, D]; query, key [D].
    """
    size = rows.shape[2]
    for token in prange(rows.shape[0]):
        for index in range(num_normed):
            x, g, weight = rows[token, index], grad[token, index], query if index < num_heads else key
            squares, projection = ZERO, ZERO
            for i in range(size):
                squares += load(x[i]) * load(x[i])
                projection += load(g[i]) * load(weight[i]) * load(x[i])
            scale = ONE / np.sqrt(squares / np.float32(size) + eps)
            projection *= scale * scale / np.float32(size)
            for i in range(size):
                store(g, i, scale * (load(g[i]) * load(weight[i]) - load(x[i]) * projection))


@parallel
def gate(gate_up: Array, out: Array) -> None:
    """out = silu(gate) · up. gate_up [N, 2I], out [N, at least I]."""
    for row in prange(gate_up.shape[0]):
        gate_row(gate_up[row], out[row])


@parallel
def gate_backward(grad: Array, gate_up: Array, out: Array) -> None:
    """The gradients of gate and up. grad [N, at least I] of `gate`'s result, out [N, 2I]."""
    inner = gate_up.shape[1] // 2
    for row in prange(gate_up.shape[0]):
        g, both, own = grad[row], gate_up[row], out[row]
        for i in range(inner):
            value, upper = load(both[i]), load(g[i])
            sigmoid = ONE / (ONE + exp(-value))
            store(own, i, upper * load(both[i + inner]) * sigmoid * (ONE + value * (ONE - sigmoid)))
            store(own, i + inner, upper * value * sigmoid)


# tanh's form of GELU, x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), is x · sigmoid(2 √(2/π) · (x + 0.044715 x³)).
_SLOPE, _CUBE = np.float32(1.5957691216), np.float32(0.044715)


@parallel
def gate_gelu(gate_up: Array, out: Array) -> None:
    """out = gelu(gate) · up. gate_up [N, 2I], out [N, at least I]."""
    inner = gate_up.shape[1] // 2
    for row in prange(gate_up.shape[0]):
        both, own = gate_up[row], out[row]
        for i in range(inner):
            value = load(both[i])
            steep = _SLOPE * value * (ONE + _CUBE * value * value)
            store(own, i, value / (ONE + exp(-steep)) * load(both[i + inner]))


@parallel
def gate_gelu_backward(grad: Array, gate_up: Array, out: Array) -> None:
    """The gradients of gate and up. grad [N, at least I] of `gate_gelu`'s result, out [N, 2I]."""
    inner = gate_up.shape[1] // 2
    for row in prange(gate_up.shape[0]):
        g, both, own = grad[row], gate_up[row], out[row]
        for i in range(inner):
            value, upper = load(both[i]), load(g[i])
            square = _CUBE * value * value
            sigmoid = ONE / (ONE + exp(-_SLOPE * value * (ONE + square)))
            slope = _SLOPE * value * (ONE + np.float32(3) * square)
            store(own, i, upper * load(both[i + inner]) * sigmoid * (ONE + slope * (ONE - sigmoid)))
            store(own, i + inner, upper * value * sigmoid)


@parallel
def rotate(rows: Array, cos: Array, sin: Array, num_rotated: int, direction: np.float32) -> None:
    """Rotary embedding of the first heads of each token, in place; direction -1 turns back.

    rows [N, H + 2K, D]; cos, sin [N, half], of which a head's first 2 · half numbers are turned. Their halves are the
    pairs, as in transformers.
    """
    half = cos.shape[1]
    for token in prange(rows.shape[0]):
        c, s = cos[token], sin[token]
        for index in range(num_rotated):
            head = rows[token, index]
            for i in range(half):
                low, high = load(head[i]), load(head[i + half])
                turn = load(s[i]) * direction
                store(head, i, low * load(c[i]) - high * turn)
                store(head, i + half, high * load(c[i]) + low * turn)


@parallel
def causal_softmax(scores: Array, length: int, num_before: int, window: int) -> None:
    """Softmax of what each query sees, in place; zero elsewhere.

    scores [B, G · length, W]: row r is query r mod length, which stands behind num_before + r mod length positions and
    sees them and itself, but of all these the last `window` only.
    """
    num_rows, width = scores.shape[1:]
    total_rows = scores.shape[0] * num_rows
    for part in prange((total_rows + ROWS - 1) // ROWS):
        # Up to a multiple of what the vector unit takes at once: the rest of a loop is done one by one.
        weights = np.empty((width + LANES - 1) // LANES * LANES, np.float32)
        for item in range(part * ROWS, min((part + 1) * ROWS, total_rows)):
            row = item % num_rows
            end = num_before + row % length + 1
            own, first = scores[item // num_rows, row], max(end - window, 0)
            own[:first] = 0
            seen = end - first
            _softmax_row(own[first:], seen, weights[: (seen + LANES - 1) // LANES * LANES])


@inline
def _softmax_row(own: Array, seen: int, weights: Array) -> None:
    """own [W], in place; weights [W or more], to compute in."""
    for i in range(seen):
        weights[i] = load(own[i])
    weights[seen:] = LOWEST
    highest, total = largest(weights), ZERO
    for i in range(len(weights)):
        weights[i] = exp(weights[i] - highest)
        total += weights[i]
    share = ONE / total
    for i in range(seen):
        store(own, i, weights[i] * share)
    own[seen:] = 0


@parallel
def causal_softmax_backward(grad: Array, probabilities: Array, length: int, num_before: int, window: int) -> None:
    """The gradient of the scores [B, G · length, W], in place of that of the probabilities. As `causal_softmax`."""
    num_rows = grad.shape[1]
    for item in prange(grad.shape[0] * num_rows):
        row = item % num_rows
        end = num_before + row % length + 1
        first = max(end - window, 0)
        grad[item // num_rows, row, :first] = 0
        own, given = grad[item // num_rows, row, first:], probabilities[item // num_rows, row, first:]
        seen, mean = end - first, ZERO
        for i in range(seen):
            mean += load(own[i]) * load(given[i])
        for i in range(seen):
            store(own, i, load(given[i]) * (load(own[i]) - mean))
        own[seen:] = 0
