"""A whole decoder layer of the llama family with one hand-written backward.

Linear layers with the same input are one product, and their adapters are extra columns of it: with h = x Aᵀ,
y = [x, h] [W, scaling · B]ᵀ, and the same matrix gives the gradients of x and of h in the backward. Kept for the
backward: the layer's input, query, key, value, the attention's output, the middle of the residual stream, gate and up.
Norms, activations and the adapters' inner products are computed again, which costs less than reading them back.

Used where every linear layer has an adapter without dropout; other layers run through transformers and `LoraLinear`,
which is also what this is tested against.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from tunery.modeling.attention import AttentionPlan
from tunery.modeling.fused import rms_norm_backward, rms_norm_forward
from tunery.modeling.lora import LoraLinear
from tunery.modeling.packed_attention import attend, attend_backward

LAYERS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"}


class FusedLinear:
    """Several adapted linear layers with one input. Their weights and compute copies become parts of its matrices."""

    def __init__(self, members: list[LoraLinear]) -> None:
        self.members = members
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

    def extend(self, x: Tensor) -> Tensor:
        """[x, x Aᵀ]"""
        return torch.cat([x, x @ self.shrink.t()], 1)

    def forward(self, extended: Tensor) -> Tensor:
        return F.linear(extended, self.weight, self.bias)

    def backward(self, grad: Tensor, extended: Tensor, *, wants_input: bool) -> tuple[Tensor | None, list[Tensor]]:
        """The input's gradient, and those of A and B of each member. grad [N, out]"""
        grad_x: Tensor | None = None
        if wants_input:
            both = grad @ self.weight
            grad_x, grad_h = both[:, : self.num_in], both[:, self.num_in :]
            grad_x = torch.addmm(grad_x, grad_h, self.shrink)
        else:
            grad_h = grad @ self.weight[:, self.num_in :]
        grad_a = grad_h.t() @ extended[:, : self.num_in]
        grad_b = extended[:, self.num_in :].t() @ grad
        grads: list[Tensor] = []
        for member, (rows, columns) in zip(self.members, self.blocks, strict=True):
            grads.append(grad_a[columns].float())
            grads.append(grad_b[columns, rows].t().float().mul_(member.scaling))
        return grad_x, grads


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

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        plan: AttentionPlan | None = None,
        **kwargs: Any,
    ) -> Tensor:
        if plan is None or position_embeddings is None:
            raise ValueError("Packed attention needs a plan: call the model with plan=…")
        cos, sin = (tensor[0, :, None] for tensor in position_embeddings)  # [N, 1, D]
        parameters = [p for member in self.adapters for p in (member.lora_A, member.lora_B)]
        out: Tensor = _Layer.apply(hidden_states[0], cos, sin, plan, self, *parameters)  # type: ignore[assignment]
        return out[None]


class _Layer(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, plan: AttentionPlan, layer: FusedLayer, *parameters: Tensor
    ) -> Tensor:
        normed, _ = rms_norm_forward(x, layer.input_layernorm.weight, layer.eps)
        qkv = layer.qkv.forward(layer.qkv.extend(normed))
        q, k, v = _heads(qkv, cos, sin, plan, layer.head_dim)
        mixed, kept = attend(q, k, v, plan, layer.scaling, keep=any(ctx.needs_input_grad))
        mixed = mixed.view(x.shape[0], -1)
        middle = layer.out.forward(layer.out.extend(mixed)).add_(x)
        normed, _ = rms_norm_forward(middle, layer.post_attention_layernorm.weight, layer.eps)
        gate_up = layer.gate_up.forward(layer.gate_up.extend(normed))
        ctx.layer, ctx.plan = layer, plan
        ctx.save_for_backward(x, cos, sin, q, k, v, mixed, middle, gate_up, *kept)
        gate, up = gate_up.chunk(2, 1)
        return layer.down.forward(layer.down.extend(F.silu(gate).mul_(up))).add_(middle)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, cos, sin, q, k, v, mixed, middle, gate_up, *kept = ctx.saved_tensors
        layer, plan = ctx.layer, ctx.plan
        grad, mlp_grads = _mlp_backward(layer, grads[0], middle, gate_up)
        grad_mixed, out_grads = layer.out.backward(grad, layer.out.extend(mixed), wants_input=True)
        heads = attend_backward(grad_mixed.reshape(q.shape), q, k, v, plan, layer.scaling, kept)
        grad_qkv = _heads_backward(heads, cos, sin, plan, x.shape[0])
        weight = layer.input_layernorm.weight
        normed, inverse = rms_norm_forward(x, weight, layer.eps)
        grad_normed, qkv_grads = layer.qkv.backward(
            grad_qkv, layer.qkv.extend(normed), wants_input=ctx.needs_input_grad[0]
        )
        grad_x = None if grad_normed is None else grad.add_(rms_norm_backward(grad_normed, x, weight, inverse))
        return grad_x, None, None, None, None, *qkv_grads, *out_grads, *mlp_grads


def _mlp_backward(layer: FusedLayer, grad: Tensor, middle: Tensor, gate_up: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the residual stream before the MLP, and the adapters'."""
    gate, up = gate_up.chunk(2, 1)
    silu = F.silu(gate)
    grad_act, down_grads = layer.down.backward(grad, layer.down.extend(silu * up), wants_input=True)
    assert grad_act is not None
    grad_gate_up = torch.empty_like(gate_up)
    grad_gate, grad_up = grad_gate_up.chunk(2, 1)
    torch.mul(grad_act, silu, out=grad_up)
    grad_gate.copy_(torch.ops.aten.silu_backward(grad_act.mul_(up), gate))
    weight = layer.post_attention_layernorm.weight
    normed, inverse = rms_norm_forward(middle, weight, layer.eps)
    grad_normed, gate_up_grads = layer.gate_up.backward(grad_gate_up, layer.gate_up.extend(normed), wants_input=True)
    assert grad_normed is not None
    before = rms_norm_backward(grad_normed, middle, weight, inverse).add_(grad)
    return before, [*gate_up_grads, *down_grads]


def _heads(qkv: Tensor, cos: Tensor, sin: Tensor, plan: AttentionPlan, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated query [N * H, D] and key [N * K, D], and value [N * K, D], from [N, (H + 2K) * D]."""
    heads = qkv.view(qkv.shape[0], -1, dim)
    rotated = _rotate(heads[:, : plan.num_heads + plan.num_kv_heads], cos, sin)
    query, key = rotated.split([plan.num_heads, plan.num_kv_heads], 1)
    value = heads[:, plan.num_heads + plan.num_kv_heads :]
    return query.reshape(-1, dim), key.reshape(-1, dim), value.reshape(-1, dim)


def _heads_backward(
    grads: tuple[Tensor, Tensor, Tensor], cos: Tensor, sin: Tensor, plan: AttentionPlan, num_tokens: int
) -> Tensor:
    """[N, (H + 2K) * D]. Turning back is the rotation by the negative angle."""
    query, key, value = (grad.view(num_tokens, -1, grad.shape[-1]) for grad in grads)
    rotated = _rotate(torch.cat([query, key], 1), cos, -sin)
    return torch.cat([rotated, value], 1).view(num_tokens, -1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in transformers' layout: x [N, heads, D], cos and sin [N, 1, D] with two equal halves."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


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
