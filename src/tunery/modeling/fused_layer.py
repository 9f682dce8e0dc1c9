"""A whole decoder layer of the llama family with one hand-written backward.

Linear layers with the same input are one product, and their adapters are extra columns of it: with h = x Aᵀ,
y = [x, h] [W, scaling · B]ᵀ, and the same matrix gives the gradients of x and of h in the backward. Kept for the
backward: the layer's input, query, key, value, the attention's output, the middle of the residual stream, gate and up,
and the adapters' inner products h. Norms and activations are computed again, which costs less than reading them back.

What is kept has the type of the weights. What goes into a product has the product type, which may be wider: the loops
between the products write either.

Used where every linear layer has an adapter without dropout; other layers run through transformers and `LoraLinear`,
which is also what this is tested against.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from tunery.modeling import layer_loops as loops
from tunery.modeling.attention import AttentionPlan
from tunery.modeling.compiled import Array, as_array, use_threads
from tunery.modeling.lora import LoraLinear
from tunery.modeling.packed_attention import attend, attend_backward

LAYERS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"}


class FusedLinear:
    """Several adapted linear layers with one input. Their weights and compute copies become parts of its matrices."""

    def __init__(self, members: list[LoraLinear]) -> None:
        self.members = members
        self.product_dtype = members[0].product_dtype
        self.num_in = members[0].base.in_features
        outs, ranks = [m.base.out_features for m in members], [m.lora_A.shape[0] for m in members]
        like = members[0].base.weight
        self.weight = like.new_zeros(sum(outs), self.num_in + sum(ranks))  # [W, scaling · B], B block by block
        self.shrink = like.new_zeros(sum(ranks), self.num_in)
        self.bias: Tensor | None = None
        if any(m.base.bias is not None for m in members):
            parts = [
                like.new_zeros(o) if m.base.bias is None else m.base.bias for m, o in zip(members, outs, strict=True)
            ]
            self.bias = torch.cat(parts)
        self.blocks: list[tuple[slice, slice]] = []  # of each member: its outputs, its ranks
        out = rank = 0
        for member, num_out, num_rank in zip(members, outs, ranks, strict=True):
            rows, columns = slice(out, out + num_out), slice(rank, rank + num_rank)
            self._adopt(member, rows, columns)
            self.blocks.append((rows, columns))
            out, rank = rows.stop, columns.stop

    def _adopt(self, member: LoraLinear, rows: slice, columns: slice) -> None:
        own = self.weight[rows, : self.num_in]
        own.copy_(member.base.weight)
        member.base.weight.data = own
        member.compute_A = self.shrink[columns]
        member.compute_B = self.weight[rows, self.num_in + columns.start : self.num_in + columns.stop]
        member.refresh()

    def room(self, like: Tensor) -> Tensor:
        """An empty [x, h] for as many rows as `like` has: x is the caller's to write."""
        return like.new_empty(like.shape[0], self.weight.shape[1], dtype=self.product_dtype)

    def forward(self, extended: Tensor) -> tuple[Tensor, Tensor]:
        """y and h of an [x, h] whose x is written."""
        h = extended[:, : self.num_in] @ self.shrink.t().to(self.product_dtype)
        extended[:, self.num_in :] = h
        bias = None if self.bias is None else self.bias.to(self.product_dtype)
        y = F.linear(extended, self.weight.to(self.product_dtype), bias)
        return y.to(self.weight.dtype), h.to(self.weight.dtype)

    def backward(self, grad: Tensor, x: Tensor, h: Tensor, *, wants_input: bool) -> tuple[Tensor | None, list[Tensor]]:
        """The gradients of [x, h], of which x's part is the whole one, and of A and B of each member.

        grad [N, out] and x [N, in] in the product type, as is the first result; h as `forward` gave it.
        """
        dtype = self.product_dtype
        both: Tensor | None = None
        if wants_input:
            both = grad @ self.weight.to(dtype)
            grad_h = both[:, self.num_in :]
            both[:, : self.num_in].addmm_(grad_h, self.shrink.to(dtype))
        else:
            grad_h = grad @ self.weight[:, self.num_in :].to(dtype)
        grad_a = grad_h.t() @ x
        grad_b = h.to(dtype).t() @ grad  # what belongs to no member costs less than a product for each of them
        grads: list[Tensor] = []
        for member, (rows, columns) in zip(self.members, self.blocks, strict=True):
            grads.append(grad_a[columns].float())
            grads.append(grad_b[columns, rows].t().float().mul_(member.scaling))
        return both, grads


class FusedLayer(GradientCheckpointingLayer):
    """Stands in the place of transformers' decoder layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        # Registered, so that the parameters keep their names and places.
        self.self_attn, self.mlp = attention, mlp
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self.eps = layer.input_layernorm.variance_epsilon
        self.head_dim, self.scaling = attention.head_dim, attention.scaling
        self.qkv = FusedLinear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = FusedLinear([attention.o_proj])
        self.gate_up = FusedLinear([mlp.gate_proj, mlp.up_proj])
        self.down = FusedLinear([mlp.down_proj])
        linears = (self.qkv, self.out, self.gate_up, self.down)
        self.adapters = [member for linear in linears for member in linear.members]
        self.product_dtype = self.qkv.product_dtype

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        plan: AttentionPlan | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if plan is None or position_embeddings is None:
            raise ValueError("Packed attention needs a plan: call the model with plan=…")
        cos, sin = (tensor[0] for tensor in position_embeddings)  # [N, D]
        use_threads(torch.get_num_threads())
        parameters = [p for member in self.adapters for p in (member.lora_A, member.lora_B)]
        out: Tensor = _Layer.apply(hidden_states[0], cos, sin, plan, self, *parameters)  # type: ignore[assignment]
        return out[None]


class _Layer(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, plan: AttentionPlan, layer: FusedLayer, *parameters: Tensor
    ) -> Tensor:
        extended = layer.qkv.room(x)
        _norm(x, layer.input_layernorm.weight, layer.eps, extended)
        qkv, h_qkv = layer.qkv.forward(extended)
        rows = qkv.view(-1, layer.head_dim)
        _rotate(rows, cos, sin, plan, 1)
        wide = rows.to(layer.product_dtype)
        attended, kept = attend(wide, plan, layer.scaling, keep=any(ctx.needs_input_grad))
        extended = layer.out.room(x)
        extended[:, : layer.out.num_in] = attended.view(x.shape[0], -1)
        middle, h_out = layer.out.forward(extended)
        middle.add_(x)
        extended = layer.gate_up.room(x)
        _norm(middle, layer.post_attention_layernorm.weight, layer.eps, extended)
        gate_up, h_gate_up = layer.gate_up.forward(extended)
        extended = layer.down.room(x)
        loops.gate(as_array(gate_up), as_array(extended))
        out, h_down = layer.down.forward(extended)
        ctx.layer, ctx.plan = layer, plan
        ctx.num_kept = len(kept)
        ctx.save_for_backward(
            *(x, cos, sin, rows, attended.to(x.dtype), h_qkv, h_out, *(part.to(x.dtype) for part in kept)),
            *(middle, gate_up, h_gate_up, h_down),
        )
        return out.add_(middle)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, cos, sin, rows, attended, h_qkv, h_out, *more = ctx.saved_tensors
        kept, of_mlp = more[: ctx.num_kept], more[ctx.num_kept :]
        layer, plan, dtype = ctx.layer, ctx.plan, ctx.layer.product_dtype
        grad, mlp_grads = _mlp_backward(layer, grads[0], *of_mlp)
        mixed = attended.view(x.shape[0], -1).to(dtype)
        grad_mixed, out_grads = layer.out.backward(grad.to(dtype), mixed, h_out, wants_input=True)
        assert grad_mixed is not None
        grad_mixed = grad_mixed[:, : layer.out.num_in].reshape(attended.shape)
        kept = [part.to(dtype) for part in kept]
        grad_rows = attend_backward(grad_mixed, rows.to(dtype), plan, layer.scaling, kept)
        _rotate(grad_rows, cos, sin, plan, -1)
        weight, normed = layer.input_layernorm.weight, torch.empty_like(x, dtype=dtype)
        inverse = _norm(x, weight, layer.eps, normed)
        wants_input = ctx.needs_input_grad[0]
        grad_normed, qkv_grads = layer.qkv.backward(
            grad_rows.view(x.shape[0], -1), normed, h_qkv, wants_input=wants_input
        )
        if grad_normed is not None:
            _add_norm_grad(grad_normed, x, weight, inverse, grad)
        return grad if wants_input else None, None, None, None, None, *qkv_grads, *out_grads, *mlp_grads


def _mlp_backward(
    layer: FusedLayer, grad: Tensor, middle: Tensor, gate_up: Tensor, h_gate_up: Tensor, h_down: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the residual stream before the MLP, and the adapters'."""
    dtype = layer.product_dtype
    act = gate_up.new_empty(gate_up.shape[0], layer.down.num_in, dtype=dtype)
    loops.gate(as_array(gate_up), as_array(act))
    grad_act, down_grads = layer.down.backward(grad.to(dtype), act, h_down, wants_input=True)
    assert grad_act is not None
    grad_gate_up = torch.empty_like(gate_up, dtype=dtype)
    loops.gate_backward(as_array(grad_act), as_array(gate_up), as_array(grad_gate_up))
    weight, normed = layer.post_attention_layernorm.weight, torch.empty_like(middle, dtype=dtype)
    inverse = _norm(middle, weight, layer.eps, normed)
    grad_normed, gate_up_grads = layer.gate_up.backward(grad_gate_up, normed, h_gate_up, wants_input=True)
    assert grad_normed is not None
    before = grad.clone()
    _add_norm_grad(grad_normed, middle, weight, inverse, before)
    return before, [*gate_up_grads, *down_grads]


def _norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Array:
    """Writes the normed rows to the first columns of out; gives 1 / rms(x) [N] fp32."""
    inverse = np.empty(x.shape[0], np.float32)
    loops.norm(as_array(x), as_array(weight), np.float32(eps), as_array(out), inverse)
    return inverse


def _add_norm_grad(grad: Tensor, x: Tensor, weight: Tensor, inverse: Array, out: Tensor) -> None:
    loops.norm_backward(as_array(grad), as_array(x), as_array(weight), inverse, as_array(out))


def _rotate(rows: Tensor, cos: Tensor, sin: Tensor, plan: AttentionPlan, direction: int) -> None:
    """Queries and keys by their positions, in place; back again with direction -1. rows [N * (H + 2K), D]"""
    heads = as_array(rows.view(cos.shape[0], -1, rows.shape[1]))
    loops.rotate(heads, as_array(cos), as_array(sin), plan.num_heads + plan.num_kv_heads, np.float32(direction))


def fuse_layers(model: nn.Module) -> None:
    """Replace every decoder layer that this module can stand for. Call after the adapters are attached, on a CPU."""
    modules: list[tuple[str, Any]] = list(model.named_modules())
    for name, module in modules:
        if type(module).__name__ in LAYERS and _is_plain(module):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, FusedLayer(module))


def _is_plain(layer: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    if getattr(attention, "sliding_window", None) is not None or type(mlp.act_fn) is not type(_silu()):
        return False
    linears = [getattr(attention, f"{name}_proj") for name in "qkvo"]
    linears += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return all(isinstance(linear, LoraLinear) and not linear.dropout for linear in linears)


def _silu() -> nn.Module:
    from transformers.activations import ACT2FN

    return ACT2FN["silu"]
