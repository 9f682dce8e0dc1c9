"""A whole decoder layer with one hand-written backward.

Linear layers with the same input are one product, and their adapters are extra columns of it: with h = x Aᵀ,
y = [x, h] [W, scaling · B]ᵀ, and the same matrix gives the gradients of x and of h in the backward. Kept for the
backward: the layer's input, query, key, value, the attention's output, the middle of the residual stream, gate and up,
and the adapters' inner products h. Norms and activations are computed again, which costs less than reading them back.

What an architecture has besides (models.architecture) stands where it is not a multiplication by one: norms of queries
and keys, for which these are kept as they were before them, and norms behind attention and MLP.

What is kept has the type of the weights. What goes into a product has the product type, which may be wider: the loops
between the products write either.

The last layer computes what follows its attention only for the tokens that are asked for, of which some may be asked
for twice: M rows of the N.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from tunery.kernels import layers as loops
from tunery.kernels.compile import Array, as_array
from tunery.models.architecture import LayerKind
from tunery.models.config import ModelConfig
from tunery.models.weight_files import LayerNorms
from tunery.training.forward.attention import AttentionPlan
from tunery.training.forward.fused_linear import FusedLinear
from tunery.training.forward.lora import LoraLinear
from tunery.training.forward.memory import SavedActivations, Scratch
from tunery.training.forward.packed_attention import attend, attend_backward


@dataclass(frozen=True)
class Positions:
    """Where the tokens of a packed row stand."""

    turns: list[tuple[Tensor, Tensor]]  # cos and sin [N, half] of each of the model's ropes
    plan: AttentionPlan


class _Kept(NamedTuple):
    """What the backward needs besides the layer's input."""

    rows: Tensor  # [N · (H + 2K), D]: turned, unless heads have norms
    attended: Tensor  # [M, H · D]
    h_qkv: Tensor
    h_out: Tensor
    middle: Tensor  # [M, E] of the residual stream
    gate_up: Tensor  # [M, 2I]
    h_gate_up: Tensor
    h_down: Tensor
    made_by_attention: Tensor | None  # [M, E], where a norm follows it; as is the next
    made_by_mlp: Tensor | None


NUM_KEPT = len(_Kept._fields)


class FusedLayer:
    def __init__(
        self,
        members: dict[str, LoraLinear],
        norms: LayerNorms,
        kind: LayerKind,
        config: ModelConfig,
        scratch: Scratch,
    ) -> None:
        """members by their names in transformers."""

        def fused(product: str) -> FusedLinear:
            return FusedLinear([members[name] for name in config.linears[product]], scratch)

        self.qkv, self.out, self.gate_up, self.down = map(fused, ("qkv", "o", "gate_up", "down"))
        self.norms, self.rope, self.window = norms, kind.rope, kind.window or loops.ALL
        self.eps, self.head_dim = config.rms_norm_eps, config.head_dim
        self.scaling, self.share = config.attention_scale, config.scales.residual
        is_silu = config.activation == "silu"
        self.gate, self.gate_backward = (
            (loops.gate, loops.gate_backward) if is_silu else (loops.gate_gelu, loops.gate_gelu_backward)
        )
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
        out, kept, probabilities = _forward(x, *ctx.given)
        ctx.save_for_backward(x, *((*kept, *probabilities) if keeps else ()))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """grads: one, [N, E] or [M, E]. The gradients of x [N, E], and of each A and B. Raises RuntimeError."""
        x, *saved = ctx.saved_tensors
        kept, probabilities = saved[:NUM_KEPT], saved[NUM_KEPT:]
        layer, positions, asked, memory = ctx.given
        if ctx.pass_number is None:
            memory.begin()  # whatever another pass has kept is written over
            _, kept, probabilities = _forward(x, *ctx.given)
        elif ctx.pass_number != memory.passes:
            raise RuntimeError("Another forward pass has written over what this one kept for its backward.")
        kept = _Kept._make(kept)
        dtype, wants_input = layer.matmul_dtype, ctx.needs_input_grad[0]
        grad, mlp_grads = _mlp_backward(layer, grads[0], kept)
        grad_made = _made_grad(layer, grad, kept.made_by_attention, layer.norms.after_attention)
        grad_mixed, out_grads = layer.out.backward(grad_made, kept.attended.to(dtype), kept.h_out, wants_input=True)
        assert grad_mixed is not None
        grad_mixed = _spread(grad_mixed[:, : layer.out.num_in], asked, x.shape[0]).reshape(-1, layer.head_dim)
        turned, plan = _turned(layer, kept.rows, positions), positions.plan
        grad_rows = attend_backward(grad_mixed, turned, plan, layer.scaling, layer.scratch, probabilities, layer.window)
        _rotate(layer, grad_rows, positions, -1)
        if layer.norms.query is not None:
            _heads(loops.norm_heads_backward, layer, plan, grad_rows, kept.rows)
        normed = layer.scratch.take("input", tuple(x.shape), dtype)
        inverse = _norm(x, layer.norms.before_attention, layer.eps, normed)
        grad_normed, qkv_grads = layer.qkv.backward(
            grad_rows.view(x.shape[0], -1), normed, kept.h_qkv, wants_input=wants_input
        )
        grad_x: Tensor | None = None
        if grad_normed is not None:
            grad_x = _spread(grad, asked, x.shape[0])
            _add_norm_grad(grad_normed, x, layer.norms.before_attention, inverse, grad_x)
        return grad_x, None, None, None, None, None, *qkv_grads, *out_grads, *mlp_grads


def _forward(
    x: Tensor, layer: FusedLayer, positions: Positions, asked: Tensor | None, memory: SavedActivations
) -> tuple[Tensor, _Kept, list[Tensor]]:
    """The layer's output, and what the backward needs besides x, probabilities last. x [N, E] → [N, E], or [M, E] of
    those asked for."""
    num_tokens, dtype = x.shape[0], x.dtype
    extended = layer.qkv.room(num_tokens)
    _norm(x, layer.norms.before_attention, layer.eps, extended)
    qkv = memory.take((num_tokens, layer.qkv.num_out), dtype)
    h_qkv = layer.qkv.forward(extended, qkv)
    rows = qkv.view(-1, layer.head_dim)
    if layer.norms.query is None:
        _rotate(layer, rows, positions, 1)
    # Rounding probabilities and widening them again costs as much as computing them again.
    keep = memory if layer.matmul_dtype is dtype else None
    turned = _turned(layer, rows, positions)
    wide, probabilities = attend(turned, positions.plan, layer.scaling, layer.scratch, keep, layer.window)
    wide = _rows(wide.view(num_tokens, -1), asked)
    attended = memory.take(tuple(wide.shape), dtype).copy_(wide)
    extended = layer.out.room(attended.shape[0])
    extended[:, : layer.out.num_in] = attended
    middle = memory.take((attended.shape[0], x.shape[1]), dtype)
    made = middle if layer.norms.after_attention is None else memory.take(tuple(middle.shape), dtype)
    h_out = layer.out.forward(extended, made)
    _join(layer, _rows(x, asked), made, layer.norms.after_attention, middle)
    out, gate_up, h_gate_up, h_down, made_by_mlp = _mlp(layer, middle, memory)
    made_by_attention = None if made is middle else made
    kept = _Kept(rows, attended, h_qkv, h_out, middle, gate_up, h_gate_up, h_down, made_by_attention, made_by_mlp)
    return out, kept, probabilities


def _turned(layer: FusedLayer, rows: Tensor, positions: Positions) -> Tensor:
    """Queries, keys and values as attention reads them, in the product type. rows [N · (H + 2K), D], as they are
    kept."""
    if layer.norms.query is None:
        return rows.to(layer.matmul_dtype)
    turned = layer.scratch.take("turned", tuple(rows.shape), layer.matmul_dtype).copy_(rows)
    _heads(loops.norm_heads, layer, positions.plan, turned)
    _rotate(layer, turned, positions, 1)
    return turned


def _heads(loop: Any, layer: FusedLayer, plan: AttentionPlan, *rows: Tensor) -> None:
    """A loop over the norms of queries and keys. rows [N · (H + 2K), D] each."""
    num_heads, num_normed = plan.num_heads, plan.num_heads + plan.num_kv_heads
    arrays = [as_array(each.view(-1, num_normed + plan.num_kv_heads, layer.head_dim)) for each in rows]
    assert layer.norms.query is not None and layer.norms.key is not None
    weights = as_array(layer.norms.query), as_array(layer.norms.key)
    loop(*arrays, *weights, num_heads, num_normed, np.float32(layer.eps))


def _join(layer: FusedLayer, residual: Tensor, made: Tensor, norm: Tensor | None, out: Tensor) -> None:
    """out = residual + share · made, or what its norm makes of it. All [M, E]; out is `made` without a norm."""
    if norm is not None:
        _norm(made, norm, layer.eps, out)
    torch.add(residual, out, alpha=layer.share, out=out)


def _made_grad(layer: FusedLayer, grad: Tensor, made: Tensor | None, norm: Tensor | None) -> Tensor:
    """The gradient of what was joined, in the product type. grad and made [M, E], norm [E]."""
    dtype = layer.matmul_dtype
    if made is None or norm is None:
        return grad.to(dtype) if layer.share == 1 else grad.to(dtype) * layer.share
    inverse = _norm(made, norm, layer.eps, layer.scratch.take("input", tuple(made.shape), dtype))
    own = torch.zeros_like(made, dtype=dtype)
    _add_norm_grad(grad, made, norm, inverse, own)
    return own if layer.share == 1 else own.mul_(layer.share)


def _rows(tensor: Tensor, asked: Tensor | None) -> Tensor:
    """tensor [N, …] → [M, E]: the rows asked for."""
    return tensor if asked is None else tensor.index_select(0, asked)


def _spread(grad: Tensor, asked: Tensor | None, num_tokens: int) -> Tensor:
    """The gradient of all rows from that of the ones asked for. grad [M, E] → [N, E]."""
    return grad if asked is None else grad.new_zeros(num_tokens, grad.shape[1]).index_add_(0, asked, grad)


def _mlp(
    layer: FusedLayer, middle: Tensor, memory: SavedActivations
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The layer's output, and what the backward needs besides `middle`: gate and up, the adapters' inner products, and
    what the MLP made where a norm follows it. middle [M, E] → [M, E]."""
    extended = layer.gate_up.room(middle.shape[0])
    _norm(middle, layer.norms.before_mlp, layer.eps, extended)
    gate_up = memory.take((middle.shape[0], layer.gate_up.num_out), middle.dtype)
    h_gate_up = layer.gate_up.forward(extended, gate_up)
    extended = layer.down.room(middle.shape[0])
    layer.gate(as_array(gate_up), as_array(extended))
    out = torch.empty_like(middle)
    made = None if layer.norms.after_mlp is None else memory.take(tuple(middle.shape), middle.dtype)
    h_down = layer.down.forward(extended, out if made is None else made)
    _join(layer, middle, out if made is None else made, layer.norms.after_mlp, out)
    return out, gate_up, h_gate_up, h_down, made


def _mlp_backward(layer: FusedLayer, grad: Tensor, kept: _Kept) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the residual stream before the MLP, and the adapters'. grad [M, E]."""
    dtype, middle, gate_up = layer.matmul_dtype, kept.middle, kept.gate_up
    grad_made = _made_grad(layer, grad, kept.made_by_mlp, layer.norms.after_mlp)
    act = layer.scratch.take("input", (gate_up.shape[0], layer.down.num_in), dtype)
    layer.gate(as_array(gate_up), as_array(act))
    grad_act, down_grads = layer.down.backward(grad_made, act, kept.h_down, wants_input=True)
    assert grad_act is not None
    grad_gate_up = layer.scratch.take("output", tuple(gate_up.shape), dtype)
    layer.gate_backward(as_array(grad_act), as_array(gate_up), as_array(grad_gate_up))
    normed = layer.scratch.take("input", tuple(middle.shape), dtype)
    inverse = _norm(middle, layer.norms.before_mlp, layer.eps, normed)
    grad_normed, gate_up_grads = layer.gate_up.backward(grad_gate_up, normed, kept.h_gate_up, wants_input=True)
    assert grad_normed is not None
    before = grad.clone()
    _add_norm_grad(grad_normed, middle, layer.norms.before_mlp, inverse, before)
    return before, [*gate_up_grads, *down_grads]


def _norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Array:
    """Writes the normed rows to the first columns of out; gives 1 / rms(x) [N] fp32."""
    inverse = np.empty(x.shape[0], np.float32)
    loops.norm(as_array(x), as_array(weight), np.float32(eps), as_array(out), inverse)
    return inverse


def _add_norm_grad(grad: Tensor, x: Tensor, weight: Tensor, inverse: Array, out: Tensor) -> None:
    """out += the gradient of x. grad [N, at least E], x and out [N, E], weight [E], inverse [N]."""
    loops.norm_backward(as_array(grad), as_array(x), as_array(weight), inverse, as_array(out))


def _rotate(layer: FusedLayer, rows: Tensor, positions: Positions, direction: int) -> None:
    """Queries and keys by their positions, in place; back again with direction -1. rows [N * (H + 2K), D]"""
    if layer.rope is None:
        return
    plan, (cos, sin) = positions.plan, positions.turns[layer.rope]
    heads = as_array(rows.view(cos.shape[0], -1, rows.shape[1]))
    num_rotated = plan.num_heads + plan.num_kv_heads
    loops.rotate(heads, as_array(cos), as_array(sin), num_rotated, np.float32(direction))
