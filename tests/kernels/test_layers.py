"""The compiled loops of a fused layer against tensor operations and their own gradients."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tunery.kernels import layers as loops
from tunery.kernels.compile import as_array

DTYPES = (torch.float32, torch.bfloat16)
TOKENS, WIDTH, BEHIND, EPS = 7, 48, 5, 1e-5
# bfloat16 keeps eight bits: half a step is 2^-9 of a number, and sums of rounded numbers add a few.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    tolerance = TOLERANCE[actual.dtype]
    return torch.allclose(actual.float(), expected.float(), rtol=tolerance, atol=tolerance)


def rows(width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(TOKENS, width).to(dtype)


def exactly(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float().clone().requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_and_its_gradient(dtype: torch.dtype) -> None:
    x, weight, grad, before = rows(WIDTH, dtype), rows(WIDTH, dtype)[0], rows(WIDTH + BEHIND, dtype), rows(WIDTH, dtype)
    wide = exactly(x)
    expected = functional.rms_norm(wide, (WIDTH,), weight.float(), EPS)
    expected.backward(grad[:, :WIDTH].float())
    out, inverse = torch.full((TOKENS, WIDTH + BEHIND), 9.0).to(dtype), np.empty(TOKENS, np.float32)
    loops.norm(as_array(x), as_array(weight), np.float32(EPS), as_array(out), inverse)
    assert close(out[:, :WIDTH], expected)
    assert (out[:, WIDTH:] == 9).all()
    assert close(torch.from_numpy(inverse), (x.float().square().mean(-1) + EPS).rsqrt())
    assert wide.grad is not None
    sum_of_both = before.float() + wide.grad
    loops.norm_backward(as_array(grad), as_array(x), as_array(weight), inverse, as_array(before))
    assert close(before, sum_of_both)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_of_heads_and_their_gradient(dtype: torch.dtype) -> None:
    heads, grad = torch.randn(TOKENS, 6, 16).to(dtype), torch.randn(TOKENS, 6, 16).to(dtype)
    weights = [torch.randn(16).to(dtype) for _ in range(2)]  # of two queries and of three keys; the last is a value
    wide = exactly(heads)
    normed = [
        functional.rms_norm(wide[:, part], (16,), weight.float(), EPS)
        for part, weight in zip((slice(2), slice(2, 5)), weights, strict=True)
    ]
    expected = torch.cat([*normed, wide[:, 5:]], 1)
    expected.backward(grad.float())
    out = heads.clone()
    how = (*map(as_array, weights), 2, 5, np.float32(EPS))
    loops.norm_heads(as_array(out), *how)
    assert close(out, expected)
    loops.norm_heads_backward(as_array(grad), as_array(heads), *how)
    assert wide.grad is not None
    assert close(grad, wide.grad)


GATES = {"silu": (loops.gate, loops.gate_backward), "gelu": (loops.gate_gelu, loops.gate_gelu_backward)}


def activate(kind: str, gate: torch.Tensor) -> torch.Tensor:
    """Of any shape."""
    return functional.silu(gate) if kind == "silu" else functional.gelu(gate, approximate="tanh")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", GATES)
def test_gate_and_its_gradient(dtype: torch.dtype, kind: str) -> None:
    forward, backward = GATES[kind]
    gate_up, grad = rows(2 * WIDTH, dtype) * 3, rows(WIDTH + BEHIND, dtype)
    wide = exactly(gate_up)
    gate, up = wide.chunk(2, 1)
    expected = activate(kind, gate) * up
    expected.backward(grad[:, :WIDTH].float())
    out, grads = torch.full((TOKENS, WIDTH + BEHIND), 9.0).to(dtype), torch.empty_like(gate_up)
    forward(as_array(gate_up), as_array(out))
    backward(as_array(grad), as_array(gate_up), as_array(grads))
    assert close(out[:, :WIDTH], expected)
    assert (out[:, WIDTH:] == 9).all()
    assert wide.grad is not None
    assert close(grads, wide.grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", GATES)
def test_gate_over_the_whole_range_of_the_exponential(dtype: torch.dtype, kind: str) -> None:
    both = torch.cat((torch.linspace(-200, 200, 4000), torch.randn(4000))).view(1, -1).to(dtype)
    both[0, 7] = float("nan")
    out = torch.empty(1, 4000, dtype=dtype)
    GATES[kind][0](as_array(both), as_array(out))
    gate, up = both.float().chunk(2, -1)
    expected = activate(kind, gate) * up
    assert out[0, 7].isnan()
    assert close(out.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 12])
def test_rotation_and_back(dtype: torch.dtype, width: int) -> None:
    from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

    heads, angles = torch.randn(TOKENS, 5, 16).to(dtype), torch.rand(TOKENS, width // 2).repeat(1, 2) * 6
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    turned = heads.clone()
    turns = as_array(cos[:, : width // 2]), as_array(sin[:, : width // 2])
    loops.rotate(as_array(turned), *turns, 4, np.float32(1))
    whole = heads[:, :4].float().transpose(0, 1)[None]
    expected, _ = apply_rotary_pos_emb(whole, whole, cos[None].float(), sin[None].float())
    assert close(turned[:, :4], expected[0].transpose(0, 1))
    assert torch.equal(turned[:, 4], heads[:, 4])
    loops.rotate(as_array(turned), *turns, 4, np.float32(-1))
    assert close(turned, heads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_before", [0, 3])
@pytest.mark.parametrize("window", [loops.ALL, 4, 1])
def test_causal_softmax_and_its_gradient(dtype: torch.dtype, num_before: int, window: int) -> None:
    length, heads, batch = 6, 2, 3
    shape = (batch, heads * length, num_before + length)
    scores, grad = (torch.randn(shape) * 4).to(dtype), torch.randn(shape).to(dtype)
    every = torch.ones(length, num_before + length, dtype=torch.bool)
    hidden = (every.triu(num_before + 1) | every.tril(max(num_before - window, -length))).repeat(heads, 1)
    wide = exactly(scores)
    expected = wide.masked_fill(hidden, float("-inf")).softmax(-1)
    expected.backward(grad.float())
    loops.causal_softmax(as_array(scores), length, num_before, window)
    assert close(scores, expected)
    assert not scores[hidden.expand(shape)].any()
    loops.causal_softmax_backward(as_array(grad), as_array(scores), length, num_before, window)
    assert wide.grad is not None
    assert close(grad, wide.grad)
    assert not grad[hidden.expand(shape)].any()


def test_what_is_no_number_stays_so() -> None:
    scores = torch.tensor([[[float("nan"), 1.0], [1.0, 2.0]]])
    loops.causal_softmax(as_array(scores), 2, 0, loops.ALL)
    assert scores[0, 0, 0].isnan()
    x, out, inverse = torch.tensor([[float("inf"), 1.0]]), torch.empty(1, 2), np.empty(1, np.float32)
    loops.norm(as_array(x), as_array(torch.ones(2)), np.float32(EPS), as_array(out), inverse)
    assert not torch.isfinite(out).all()
