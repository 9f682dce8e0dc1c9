"""Pointwise parts of a transformer layer that keep less for the backward and pass over memory fewer times.

Each stands in for a module of transformers whose formula it repeats; modules it does not know stay as they are.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

# Norms with the formula weight * x / rms(x). Others (Gemma's 1 + weight) are left to transformers.
_RMS_NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
_GATED_MLPS = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"}


def rms_norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """weight * x / rms(x), and 1 / rms in fp32 [..., 1]."""
    wide = x.float()
    inverse = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (wide * inverse).to(x.dtype) * weight, inverse


def rms_norm_backward(grad: Tensor, plain: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    """The gradient of x, from x / rms(x), which it uses up. The frozen weight gets none.

    grad and plain [..., E], weight [E], inverse [..., 1].
    """
    g = (grad * weight).float()
    projection = (g * plain).mean(-1, keepdim=True)
    return g.sub_(plain.mul_(projection)).mul_(inverse).to(grad.dtype)


class _RmsNorm(Function):
    """Kept: the input and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [..., E], weight [E] → [..., E]."""
        y, inverse = rms_norm_forward(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """grads: one, [..., E]. The gradient of x [..., E]."""
        x, weight, inverse = ctx.saved_tensors
        return rms_norm_backward(grads[0], x.float() * inverse, weight, inverse), None, None


class _GatedSilu(Function):
    """silu(gate) * up; the product is computed again in the backward rather than kept with its parts."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """All [..., I]."""
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        """grads: one, [..., I]. The gradients of gate and up [..., I]."""
        gate, up = ctx.saved_tensors
        grad = grads[0]
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / rms(x), the mean in fp32, x [..., E]."""
    return _RmsNorm.apply(x, weight, eps)  # type: ignore[return-value]


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up. All [..., I]."""
    return _GatedSilu.apply(gate, up)  # type: ignore[return-value]


class RmsNorm(nn.Module):
    def __init__(self, weight: nn.Parameter, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., E] → [..., E]."""
        return rms_norm(x, self.weight, self.eps)


class GatedMlp(nn.Module):
    def __init__(self, gate_proj: nn.Module, up_proj: nn.Module, down_proj: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj

    def forward(self, x: Tensor) -> Tensor:
        """x [..., E] → [..., E]."""
        return self.down_proj(gated_silu(self.gate_proj(x), self.up_proj(x)))


def fuse(model: nn.Module) -> None:
    """Replace the modules that have a leaner form here. Call after the adapters are attached."""
    modules: list[tuple[str, Any]] = list(model.named_modules())
    for name, module in modules:
        kind = type(module).__name__
        made: nn.Module | None = None
        if kind in _RMS_NORMS:
            made = RmsNorm(module.weight, module.variance_epsilon)
        elif kind in _GATED_MLPS and isinstance(module.act_fn, nn.SiLU | _silu_type()):
            made = GatedMlp(module.gate_proj, module.up_proj, module.down_proj)
        if made is not None:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, made)


def _silu_type() -> type[nn.Module]:
    """transformers has a module of its own for it."""
    from transformers.activations import ACT2FN

    return type(ACT2FN["silu"])
