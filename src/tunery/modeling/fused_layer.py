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
from transformers.modeling_layers import GradientCheckpointingLayer

from tunery.modeling import layer_loops as loops
from tunery.modeling.attention import AttentionPlan
from tunery.modeling.compiled import Array, as_array, use_threads
from tunery.modeling.fused_linear import FusedLinear
from tunery.modeling.layer_memory import Kept, Scratch
from tunery.modeling.lora import LoraLinear
from tunery.modeling.packed_attention import attend, attend_backward

LAYERS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"}


class FusedLayer(GradientCheckpointingLayer):
    """Stands in the place of transformers' decoder layer."""

    def __init__(self, layer: Any, scratch: Scratch, kept: Kept, *, is_first: bool) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        # Registered, so that the parameters keep their names and places.
        self.self_attn, self.mlp = attention, mlp
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self.eps = layer.input_layernorm.variance_epsilon
        self.head_dim, self.scaling = attention.head_dim, attention.scaling
        self.qkv = FusedLinear([attention.q_proj, attention.k_proj, attention.v_proj], scratch)
        self.out = FusedLinear([attention.o_proj], scratch)
        self.gate_up = FusedLinear([mlp.gate_proj, mlp.up_proj], scratch)
        self.down = FusedLinear([mlp.down_proj], scratch)
        linears = (self.qkv, self.out, self.gate_up, self.down)
        self.adapters = [member for linear in linears for member in linear.members]
        self.product_dtype, self.scratch = self.qkv.product_dtype, scratch
        self.kept, self.is_first = kept, is_first

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

    def memory_of_a_pass(self, keeps: bool) -> Kept:
        """Where this layer puts what its backward reads: with the other layers' unless it goes before they are done."""
        if not keeps or self.gradient_checkpointing:
            return Kept()
        if self.is_first:
            self.kept.begin()
        return self.kept


class _Layer(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, plan: AttentionPlan, layer: FusedLayer, *parameters: Tensor
    ) -> Tensor:
        num_tokens, keeps = x.shape[0], any(ctx.needs_input_grad)
        memory = layer.memory_of_a_pass(keeps)
        extended = layer.qkv.room(num_tokens)
        _norm(x, layer.input_layernorm.weight, layer.eps, extended)
        qkv = memory.take((num_tokens, layer.qkv.num_out), x.dtype)
        h_qkv = layer.qkv.forward(extended, qkv)
        rows = qkv.view(-1, layer.head_dim)
        _rotate(rows, cos, sin, plan, 1)
        # Rounding probabilities and widening them again costs as much as computing them again.
        keeps_probabilities = keeps and layer.product_dtype is x.dtype
        wide, kept = attend(rows.to(layer.product_dtype), plan, layer.scaling, layer.scratch, keep=keeps_probabilities)
        attended = memory.take((num_tokens, layer.out.num_in), x.dtype)
        attended.copy_(wide.view_as(attended))
        extended = layer.out.room(num_tokens)
        extended[:, : layer.out.num_in] = attended
        middle = memory.take(tuple(x.shape), x.dtype)
        h_out = layer.out.forward(extended, middle)
        middle.add_(x)
        extended = layer.gate_up.room(num_tokens)
        _norm(middle, layer.post_attention_layernorm.weight, layer.eps, extended)
        gate_up = memory.take((num_tokens, layer.gate_up.num_out), x.dtype)
        h_gate_up = layer.gate_up.forward(extended, gate_up)
        extended = layer.down.room(num_tokens)
        loops.gate(as_array(gate_up), as_array(extended))
        out = memory.take(tuple(x.shape), x.dtype)
        h_down = layer.down.forward(extended, out)
        ctx.layer, ctx.plan, ctx.memory, ctx.pass_ = layer, plan, memory, memory.passes
        ctx.num_kept = len(kept)
        ctx.save_for_backward(
            *(x, cos, sin, rows, attended, h_qkv, h_out, *kept, middle, gate_up, h_gate_up, h_down),
        )
        return out.add_(middle)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.memory.passes != ctx.pass_:
            raise RuntimeError("Another forward pass has written over what this one kept for its backward.")
        x, cos, sin, rows, attended, h_qkv, h_out, *more = ctx.saved_tensors
        kept, of_mlp = more[: ctx.num_kept], more[ctx.num_kept :]
        layer, plan, dtype = ctx.layer, ctx.plan, ctx.layer.product_dtype
        grad, mlp_grads = _mlp_backward(layer, grads[0], *of_mlp)
        mixed = attended.to(dtype)
        grad_mixed, out_grads = layer.out.backward(grad.to(dtype), mixed, h_out, wants_input=True)
        assert grad_mixed is not None
        grad_mixed = grad_mixed[:, : layer.out.num_in].reshape(-1, layer.head_dim)
        grad_rows = attend_backward(grad_mixed, rows.to(dtype), plan, layer.scaling, layer.scratch, kept)
        _rotate(grad_rows, cos, sin, plan, -1)
        weight, normed = layer.input_layernorm.weight, layer.scratch.take("input", tuple(x.shape), dtype)
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
    act = layer.scratch.take("input", (gate_up.shape[0], layer.down.num_in), dtype)
    loops.gate(as_array(gate_up), as_array(act))
    grad_act, down_grads = layer.down.backward(grad.to(dtype), act, h_down, wants_input=True)
    assert grad_act is not None
    grad_gate_up = layer.scratch.take("output", tuple(gate_up.shape), dtype)
    loops.gate_backward(as_array(grad_act), as_array(gate_up), as_array(grad_gate_up))
    weight, normed = layer.post_attention_layernorm.weight, layer.scratch.take("input", tuple(middle.shape), dtype)
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


def fuse_layers(model: nn.Module, scratch: Scratch) -> None:
    """Replace every decoder layer that this module can stand for. Call after the adapters are attached, on a CPU."""
    kept, is_first = Kept(), True
    modules: list[tuple[str, Any]] = list(model.named_modules())
    for name, module in modules:
        if type(module).__name__ in LAYERS and _is_plain(module):
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, FusedLayer(module, scratch, kept, is_first=is_first))
            is_first = False


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
