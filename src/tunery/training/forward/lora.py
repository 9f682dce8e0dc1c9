"""A linear layer with a low-rank adapter beside a frozen weight, and a backward of its own.

y = x Wᵀ + scaling · (x Aᵀ) Bᵀ, with W [out, in] frozen in the compute dtype, A [rank, in] and B [out, rank] trained in
fp32. The products are computed in the product type, which may be wider. Autograd would keep x twice and compute a
gradient for W; this keeps x and the rank-wide product only.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from tunery.kernels import mixed_product
from tunery.models.adapter_config import LoraConfig, UnsupportedAdapter
from tunery.models.adapter_files import AdapterFiles, Matrices

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # takes a second to import


class LoraLinear(nn.Module):
    """Stands in the place of an `nn.Linear`. `refresh` must be called after every change of A or B."""

    def __init__(
        self, name: str, base: nn.Linear, config: LoraConfig, generator: torch.Generator, matmul_dtype: torch.dtype
    ) -> None:
        """name: of the module in the model, by which the configuration gives its rank and scaling."""
        super().__init__()
        self.base = base
        self.matmul_dtype = matmul_dtype
        self.scaling = config.scaling_of(name)
        self.dropout = config.dropout
        rank = config.rank_of(name)
        shape_a, shape_b = (rank, base.in_features), (base.out_features, rank)
        # PEFT's start: A uniform in ±1/sqrt(in), B zero, so that the adapted model begins as the base.
        a = torch.empty(shape_a, dtype=torch.float32).uniform_(-1, 1, generator=generator) / math.sqrt(base.in_features)
        self.lora_A = nn.Parameter(a.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(shape_b, dtype=torch.float32, device=base.weight.device))
        # What the products use: the compute dtype, B already scaled. May be parts of a larger matrix (fused_linear).
        self.compute_A = torch.empty_like(self.lora_A, dtype=base.weight.dtype)
        self.compute_B = torch.empty_like(self.lora_B, dtype=base.weight.dtype)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the compute copies up to date with the fp32 masters."""
        self.compute_A.copy_(self.lora_A)
        self.compute_B.copy_(self.lora_B * self.scaling)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] → [..., out]."""
        seen = F.dropout(x, self.dropout) if self.dropout and self.training else None
        y: Tensor = _LoraLinear.apply(x, seen, self.lora_A, self.lora_B, self)  # type: ignore[assignment]
        return y

    def reference(self, x: Tensor) -> Tensor:
        """The formula by itself, through plain autograd: what the fast path is tested against.

        x [..., in] → [..., out].
        """
        delta = F.linear(F.linear(x, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype)) * self.scaling
        return F.linear(x, self.base.weight, self.base.bias) + delta


class _LoraLinear(Function):
    """`seen` is what the adapter reads in place of x: x after dropout. None: x itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: Tensor | None, lora_A: Tensor, lora_B: Tensor, layer: LoraLinear) -> Tensor:
        """x and seen [..., in] → [..., out]."""
        base, dtype = layer.base, layer.matmul_dtype
        wide = x.reshape(-1, x.shape[-1]).to(dtype)
        y = _outputs(wide, base.weight)
        if base.bias is not None:
            y.add_(base.bias)
        read = x if seen is None else seen
        kept = read.reshape(-1, x.shape[-1])
        h = kept.to(dtype) @ layer.compute_A.t().to(dtype)  # [N, R]
        y.addmm_(h, layer.compute_B.t().to(dtype))
        ctx.save_for_backward(kept, h.to(x.dtype))
        ctx.layer = layer
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """grads: one, [..., out]. The gradients of x and seen [..., in], A [R, in] and B [out, R]."""
        (grad,) = grads
        kept, h = ctx.saved_tensors
        layer: LoraLinear = ctx.layer
        dtype = layer.matmul_dtype
        g = grad.reshape(-1, grad.shape[-1]).to(dtype)
        grad_h = g @ layer.compute_B.to(dtype)
        grad_a = (grad_h.t() @ kept.to(dtype)).float()
        # h first: with the long side last this product is a third faster than the other way round.
        grad_b = (h.to(dtype).t() @ g).t().float().mul_(layer.scaling)
        shape, (wants_x, wants_seen) = (*grad.shape[:-1], -1), ctx.needs_input_grad[:2]
        grad_x = _inputs(g, layer.base.weight) if wants_x else None
        grad_seen = grad_h @ layer.compute_A.to(dtype) if wants_seen else None
        if grad_x is not None:
            if not wants_seen:
                grad_x.addmm_(grad_h, layer.compute_A.to(dtype))
            grad_x = grad_x.to(grad.dtype).view(shape)
        if grad_seen is not None:
            grad_seen = grad_seen.to(grad.dtype).view(shape)
        return grad_x, grad_seen, grad_a, grad_b, None


def _outputs(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ in the type of x. x [N, in], weight [out, in] → [N, out]."""
    if not mixed_product.suits(x, weight):
        return F.linear(x, weight.to(x.dtype))
    out = x.new_empty(len(x), len(weight))
    mixed_product.linear(x.contiguous(), weight, out)
    return out


def _inputs(grad: Tensor, weight: Tensor) -> Tensor:
    """g W in the type of g. grad [N, out], weight [out, in] → [N, in]."""
    if not mixed_product.suits(grad, weight):
        return grad @ weight.to(grad.dtype)
    out = grad.new_empty(len(grad), weight.shape[1])
    mixed_product.times(grad.contiguous(), weight, out)
    return out


def attach(
    model: "PreTrainedModel", config: LoraConfig, seed: int, matmul_dtype: torch.dtype | None = None
) -> dict[str, LoraLinear]:
    """Put an adapter beside every linear layer that the configuration targets.

    matmul_dtype: see kernels.matmul_dtype; None: the weights' own.
    Returned by the modules' full names, in the model's order. Raises UnsupportedAdapter when nothing matches, and
    for the vocabulary head.
    """
    generator = torch.Generator().manual_seed(seed)
    head = model.get_output_embeddings()
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and config.targets(name)
    ]
    if any(module is head for _, module in found):
        raise UnsupportedAdapter(
            "The adapter changes the vocabulary head; only LoRA on a layer's modules is built here."
        )
    if not found:
        raise UnsupportedAdapter(f"The model has none of the modules {config.target_modules!r}.")
    layers: dict[str, LoraLinear] = {}
    for name, linear in found:
        parent, _, leaf = name.rpartition(".")
        layers[name] = LoraLinear(name, linear, config, generator, matmul_dtype or linear.weight.dtype)
        setattr(model.get_submodule(parent), leaf, layers[name])
    return layers


def matrices_of(layers: Mapping[str, LoraLinear]) -> dict[str, Matrices]:
    """The fp32 masters, A [R, in] and B [out, R] of each, so that a later job goes on without a loss."""
    return {name: Matrices(layer.lora_A, layer.lora_B) for name, layer in layers.items()}


def set_adapter(layers: Mapping[str, LoraLinear], adapter: AdapterFiles) -> None:
    """Put an adapter's weights into attached layers. Raises UnsupportedAdapter where it does not fit them."""
    adapter.check_fits({name: (layer.base.in_features, layer.base.out_features) for name, layer in layers.items()})
    set_matrices(layers, adapter.modules)


@torch.no_grad()
def set_matrices(layers: Mapping[str, LoraLinear], modules: Mapping[str, Matrices]) -> None:
    """Copy A [R, in] and B [out, R] of every layer. Raises UnsupportedAdapter where one does not fit."""
    for name, layer in layers.items():
        given = modules.get(name)
        if given is None or given.a.shape != layer.lora_A.shape or given.b.shape != layer.lora_B.shape:
            raise UnsupportedAdapter(f"The adapter does not fit the model at {name!r}.")
        layer.lora_A.copy_(given.a)
        layer.lora_B.copy_(given.b)
        layer.refresh()
