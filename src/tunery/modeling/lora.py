"""A linear layer with a low-rank adapter beside a frozen weight, and a backward of its own.

y = x Wᵀ + scaling · (x Aᵀ) Bᵀ, with W [out, in] frozen in the compute dtype, A [rank, in] and B [out, rank] trained in
fp32. Autograd would keep x twice and compute a gradient for W; this keeps x and the rank-wide product only.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from tunery.modeling.adapter_config import LoraConfig, UnsupportedAdapter


class LoraLinear(nn.Module):
    """Stands in the place of an `nn.Linear`. `refresh` must be called after every change of A or B."""

    def __init__(self, base: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.scaling = config.scaling
        self.dropout = config.dropout
        shape_a, shape_b = (config.rank, base.in_features), (base.out_features, config.rank)
        # PEFT's start: A uniform in ±1/sqrt(in), B zero, so that the adapted model begins as the base.
        a = torch.empty(shape_a, dtype=torch.float32).uniform_(-1, 1, generator=generator) / math.sqrt(base.in_features)
        self.lora_A = nn.Parameter(a.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(shape_b, dtype=torch.float32, device=base.weight.device))
        # What the products use: the compute dtype, B already scaled. May be parts of a larger matrix (fused_layer).
        self.compute_A = torch.empty_like(self.lora_A, dtype=base.weight.dtype)
        self.compute_B = torch.empty_like(self.lora_B, dtype=base.weight.dtype)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the compute copies up to date with the fp32 masters."""
        self.compute_A.copy_(self.lora_A)
        self.compute_B.copy_(self.lora_B * self.scaling)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        if self.dropout and self.training:
            dropped = F.dropout(x, self.dropout)
            y = self.base(x) + _LoraDelta.apply(dropped, self.lora_A, self.lora_B, self)
        else:
            y = _LoraLinear.apply(x, self.lora_A, self.lora_B, self)
        return y

    def reference(self, x: Tensor) -> Tensor:
        """The formula by itself, through plain autograd: what the fast path is tested against."""
        delta = F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype)) * self.scaling
        return F.linear(x, self.base.weight, self.base.bias) + delta


class _LoraLinear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lora_A: Tensor, lora_B: Tensor, layer: LoraLinear) -> Tensor:
        x2 = x.reshape(-1, x.shape[-1])
        h = x2 @ layer.compute_A.t()  # [N, R]
        y = F.linear(x2, layer.base.weight, layer.base.bias)
        y.addmm_(h, layer.compute_B.t())
        ctx.save_for_backward(x2, h)
        ctx.layer = layer
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x2, h = ctx.saved_tensors
        layer: LoraLinear = ctx.layer
        g = grad.reshape(-1, grad.shape[-1])
        grad_h, grad_a, grad_b = _adapter_grads(g, x2, h, layer)
        if not ctx.needs_input_grad[0]:
            return None, grad_a, grad_b, None
        grad_x = g @ layer.base.weight
        grad_x.addmm_(grad_h, layer.compute_A)
        return grad_x.view(*grad.shape[:-1], -1), grad_a, grad_b, None


class _LoraDelta(Function):
    """The adapter's part alone: with dropout its input is not the base's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lora_A: Tensor, lora_B: Tensor, layer: LoraLinear) -> Tensor:
        x2 = x.reshape(-1, x.shape[-1])
        h = x2 @ layer.compute_A.t()
        ctx.save_for_backward(x2, h)
        ctx.layer = layer
        return (h @ layer.compute_B.t()).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x2, h = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1])
        grad_h, grad_a, grad_b = _adapter_grads(g, x2, h, ctx.layer)
        grad_x = (grad_h @ ctx.layer.compute_A).view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        return grad_x, grad_a, grad_b, None


def _adapter_grads(g: Tensor, x: Tensor, h: Tensor, layer: LoraLinear) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of h (compute dtype), A and B (fp32). g [N, out], x [N, in], h [N, R]."""
    grad_h = g @ layer.compute_B
    grad_a = (grad_h.t() @ x).float()
    # h first: with the long side last this product is a third faster than the other way round.
    grad_b = (h.t() @ g).t().float().mul_(layer.scaling)
    return grad_h, grad_a, grad_b


def attach(model: nn.Module, config: LoraConfig, seed: int) -> dict[str, LoraLinear]:
    """Put an adapter beside every linear layer whose name ends in one of the target modules.

    Returned by the modules' full names, in the model's order. Raises UnsupportedAdapter when nothing matches.
    """
    generator = torch.Generator().manual_seed(seed)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in config.target_modules
    ]
    if not found:
        raise UnsupportedAdapter(f"The model has none of the modules {', '.join(config.target_modules)}.")
    layers: dict[str, LoraLinear] = {}
    for name, linear in found:
        parent, _, leaf = name.rpartition(".")
        layers[name] = LoraLinear(linear, config, generator)
        setattr(model.get_submodule(parent), leaf, layers[name])
    return layers
