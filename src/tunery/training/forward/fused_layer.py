"""A whole decoder layer of the llama family with one hand-written backward.

Linear layers with the same input are one product, and their adapters are extra columns of it: with h = x Aᵀ,
y = [x, h] [W, scaling · B]ᵀ, and the same matrix gives the gradients of x and of h in the backward. Kept for the
backward: the layer's input, query, key, value, the attention's output, the middle of the residual stream, gate and up,
and the adapters' inner products h. Norms and activations are computed again, which costs less than reading them back.

What is kept has the type of the weights. What goes into a product has the product type, which may be wider: the loops
between the products write either.

The last layer computes what follows its attention only for the tokens that are asked for, of which some may be asked
for twice: M rows of the N.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from tunery.kernels import layers as loops
from tunery.kernels.compile import Array, as_array
from tunery.models.config import ModelConfig
from tunery.training.forward.attention import AttentionPlan
from tunery.training.forward.fused_linear import FusedLinear
from tunery.training.forward.lora import LoraLinear
from tunery.training.forward.memory import SavedActivations, Scratch
from tunery.training.forward.packed_attention import attend, attend_backward


@dataclass(frozen=True)
class Positions:
    """Where the tokens of a packed row stand."""

    cos: Tensor  # [N, D / 2]
    sin: Tensor
    plan: AttentionPlan


class FusedLayer:
    def __init__(
        self, members: dict[str, LoraLinear], norms: tuple[Tensor, Tensor], config: ModelConfig, scratch: Scratch
    ) -> None:
        """members by their names in transformers; norms: the weights before attention and before the MLP. [E] each."""

        def fused(*names: str) -> FusedLinear:
            return FusedLinear([members[name] for name in names], scratch)

        self.qkv = fused("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.out = fused("self_attn.o_proj")
        self.gate_up = fused("mlp.gate_proj", "mlp.up_proj")
        self.down = fused("mlp.down_proj")
        self.input_norm, self.post_norm = norms
        self.eps, self.head_dim, self.scaling = config.rms_norm_eps, config.head_dim, config.head_dim**-0.5
        self.matmul_dtype, self.scratch = self.qkv.matmul_dtype, scratch
        linears = (self.qkv, self.out, self.gate_up, self.down)
        self._parameters = [p for linear in linears for m in linear.members for p in (m.lora_A, m.lora_B)]

    def __call__(
        self, x: Tensor, positions: Positions, asked: Tensor | None, memory: SavedActivations, *, keeps: bool
    ) -> Tensor:
        """x [N, E] → [N, E], or [M, E] of the tokens asked for.

        keeps: the backward reads what is left in `memory`; otherwise it runs the layer again from x.
        """
        return _Layer.apply(x, positions, asked, self, memory, keeps, *self._parameters)  # type: ignore[return-value]


class _Layer(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        positions: Positions,
        asked: Tensor | None,
        layer: FusedLayer,
        memory: SavedActivations,
        keeps: bool,
        *parameters: Tensor,
    ) -> Tensor:
        """x [N, E], asked [M]; the parameters are A [R, in] and B [out, R] of each module in turn."""
        ctx.given, ctx.pass_number = (layer, positions, asked, memory), memory.passes if keeps else None
        if not keeps:
            memory.rewind()
        out, kept = _forward(x, *ctx.given)
        ctx.save_for_backward(x, *(kept if keeps else ()))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """grads: one, [N, E] or [M, E]. The gradients of x [N, E], and of each A and B. Raises RuntimeError."""
        x, *kept = ctx.saved_tensors
        layer, positions, asked, memory = ctx.given
        if ctx.pass_number is None:
            memory.begin()  # whatever another pass has kept is written over
            _, kept = _forward(x, *ctx.given)
        elif ctx.pass_number != memory.passes:
            raise RuntimeError("Another forward pass has written over what this one kept for its backward.")
        rows, attended, h_qkv, h_out, middle, gate_up, h_gate_up, h_down, *probabilities = kept
        dtype, wants_input = layer.matmul_dtype, ctx.needs_input_grad[0]
        grad, mlp_grads = _mlp_backward(layer, grads[0], middle, gate_up, h_gate_up, h_down)
        grad_mixed, out_grads = layer.out.backward(grad.to(dtype), attended.to(dtype), h_out, wants_input=True)
        assert grad_mixed is not None
        grad_mixed = _spread(grad_mixed[:, : layer.out.num_in], asked, x.shape[0]).reshape(-1, layer.head_dim)
        grad_rows = attend_backward(
            grad_mixed, rows.to(dtype), positions.plan, layer.scaling, layer.scratch, probabilities
        )
        _rotate(grad_rows, positions, -1)
        normed = layer.scratch.take("input", tuple(x.shape), dtype)
        inverse = _norm(x, layer.input_norm, layer.eps, normed)
        grad_normed, qkv_grads = layer.qkv.backward(
            grad_rows.view(x.shape[0], -1), normed, h_qkv, wants_input=wants_input
        )
        grad_x: Tensor | None = None
        if grad_normed is not None:
            grad_x = _spread(grad, asked, x.shape[0])
            _add_norm_grad(grad_normed, x, layer.input_norm, inverse, grad_x)
        return grad_x, None, None, None, None, None, *qkv_grads, *out_grads, *mlp_grads


def _forward(
    x: Tensor, layer: FusedLayer, positions: Positions, asked: Tensor | None, memory: SavedActivations
) -> tuple[Tensor, list[Tensor]]:
    """The layer's output, and what the backward needs besides x. x [N, E] → [N, E], or [M, E] of those asked for."""
    num_tokens, dtype = x.shape[0], x.dtype
    extended = layer.qkv.room(num_tokens)
    _norm(x, layer.input_norm, layer.eps, extended)
    qkv = memory.take((num_tokens, layer.qkv.num_out), dtype)
    h_qkv = layer.qkv.forward(extended, qkv)
    rows = qkv.view(-1, layer.head_dim)
    _rotate(rows, positions, 1)
    # Rounding probabilities and widening them again costs as much as computing them again.
    keep = memory if layer.matmul_dtype is dtype else None
    wide, probabilities = attend(rows.to(layer.matmul_dtype), positions.plan, layer.scaling, layer.scratch, keep)
    wide = _rows(wide.view(num_tokens, -1), asked)
    attended = memory.take(tuple(wide.shape), dtype).copy_(wide)
    extended = layer.out.room(attended.shape[0])
    extended[:, : layer.out.num_in] = attended
    middle = memory.take((attended.shape[0], x.shape[1]), dtype)
    h_out = layer.out.forward(extended, middle)
    middle.add_(_rows(x, asked))
    out, of_mlp = _mlp(layer, middle, memory)
    return out, [rows, attended, h_qkv, h_out, middle, *of_mlp, *probabilities]


def _rows(tensor: Tensor, asked: Tensor | None) -> Tensor:
    """tensor [N, …] → [M, E]: the rows asked for."""
    return tensor if asked is None else tensor.index_select(0, asked)


def _spread(grad: Tensor, asked: Tensor | None, num_tokens: int) -> Tensor:
    """The gradient of all rows from that of the ones asked for. grad [M, E] → [N, E]."""
    return grad if asked is None else grad.new_zeros(num_tokens, grad.shape[1]).index_add_(0, asked, grad)


def _mlp(layer: FusedLayer, middle: Tensor, memory: SavedActivations) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The layer's output, and what the backward needs besides `middle`. middle [M, E] → [M, E]."""
    extended = layer.gate_up.room(middle.shape[0])
    _norm(middle, layer.post_norm, layer.eps, extended)
    gate_up = memory.take((middle.shape[0], layer.gate_up.num_out), middle.dtype)
    h_gate_up = layer.gate_up.forward(extended, gate_up)
    extended = layer.down.room(middle.shape[0])
    loops.gate(as_array(gate_up), as_array(extended))
    out = torch.empty_like(middle)
    h_down = layer.down.forward(extended, out)
    return out.add_(middle), (gate_up, h_gate_up, h_down)


def _mlp_backward(
    layer: FusedLayer, grad: Tensor, middle: Tensor, gate_up: Tensor, h_gate_up: Tensor, h_down: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the residual stream before the MLP, and the adapters'.

    grad, middle [M, E]; gate_up [M, 2I]; h_gate_up [M, 2R]; h_down [M, R].
    """
    dtype = layer.matmul_dtype
    act = layer.scratch.take("input", (gate_up.shape[0], layer.down.num_in), dtype)
    loops.gate(as_array(gate_up), as_array(act))
    grad_act, down_grads = layer.down.backward(grad.to(dtype), act, h_down, wants_input=True)
    assert grad_act is not None
    grad_gate_up = layer.scratch.take("output", tuple(gate_up.shape), dtype)
    loops.gate_backward(as_array(grad_act), as_array(gate_up), as_array(grad_gate_up))
    normed = layer.scratch.take("input", tuple(middle.shape), dtype)
    inverse = _norm(middle, layer.post_norm, layer.eps, normed)
    grad_normed, gate_up_grads = layer.gate_up.backward(grad_gate_up, normed, h_gate_up, wants_input=True)
    assert grad_normed is not None
    before = grad.clone()
    _add_norm_grad(grad_normed, middle, layer.post_norm, inverse, before)
    return before, [*gate_up_grads, *down_grads]


def _norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Array:
    """Writes the normed rows to the first columns of out; gives 1 / rms(x) [N] fp32."""
    inverse = np.empty(x.shape[0], np.float32)
    loops.norm(as_array(x), as_array(weight), np.float32(eps), as_array(out), inverse)
    return inverse


def _add_norm_grad(grad: Tensor, x: Tensor, weight: Tensor, inverse: Array, out: Tensor) -> None:
    """out += the gradient of x. grad [N, at least E], x and out [N, E], weight [E], inverse [N]."""
    loops.norm_backward(as_array(grad), as_array(x), as_array(weight), inverse, as_array(out))


def _rotate(rows: Tensor, positions: Positions, direction: int) -> None:
    """Queries and keys by their positions, in place; back again with direction -1. rows [N * (H + 2K), D]"""
    plan = positions.plan
    heads = as_array(rows.view(positions.cos.shape[0], -1, rows.shape[1]))
    num_rotated = plan.num_heads + plan.num_kv_heads
    loops.rotate(heads, as_array(positions.cos), as_array(positions.sin), num_rotated, np.float32(direction))
