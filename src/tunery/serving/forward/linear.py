"""A frozen linear layer in the forms that suit its batch: few rows wait for memory, many for arithmetic.

Up to FEW_ROWS rows are multiplied with 4-bit weights where those lose nothing: base weights that came out of a 4-bit
file are recovered exactly up to the rounding of bfloat16. More rows use weights that oneDNN has packed once.
"""

import torch
from torch import nn

GROUP = 32  # weights that share a scale and a minimum: the group of GGUF's Q4_1
FEW_ROWS = 5  # beyond it packed bfloat16 is faster: measured, see docs/serving.md
# Share of the weights' norm that may get lost by 4 bits. bfloat16 itself loses 0.0017.
LOSSLESS = 0.006


class PackedLinear:
    """y = x Wᵀ + b for a frozen W [out, in]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, four_bit: bool = False) -> None:
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self._few = FourBit.pack(weight) if four_bit else None
        self._many = _pack(weight)
        self._dense = weight if self._many is None else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [N, in] → [N, out]."""
        if self._few is not None and x.shape[0] <= FEW_ROWS:
            y = self._few(x)
            return y if self.bias is None else y.add_(self.bias)
        return self.exact(x)

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        """With the weights as they were given, whatever the number of rows."""
        if self._many is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self._many, self.bias, "none", [], "")
        assert self._dense is not None
        return nn.functional.linear(x, self._dense, self.bias)


def _pack(weight: torch.Tensor) -> torch.Tensor | None:
    """oneDNN's own layout; None where there is none, as for fp32 or without oneDNN."""
    if weight.dtype is not torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 16)


class FourBit:
    """Weights as 4-bit steps between the minimum and the maximum of each group of 32."""

    def __init__(self, packed: torch.Tensor, scales: torch.Tensor) -> None:
        self._packed = packed
        self._scales = scales

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._packed, GROUP, self._scales)

    @classmethod
    def pack(cls, weight: torch.Tensor) -> "FourBit":
        steps, scale, zero = quantise(weight)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps, 1)
        # The kernel computes (step - 8) · scale + zero; its pairs lie as [groups, out, 2].
        pairs = torch.stack((scale, zero), dim=-1).transpose(0, 1).contiguous()
        return cls(packed, pairs.to(torch.bfloat16))


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """steps [out, in] int32 in 0…15, scale and zero [out, in / 32]: weight ≈ (steps - 8) · scale + zero."""
    out_features, in_features = weight.shape
    groups = weight.float().view(out_features, in_features // GROUP, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = (high - low).div(15).clamp(min=1e-12)
    steps = ((groups - low.unsqueeze(-1)) / scale.unsqueeze(-1)).round().clamp(0, 15)
    return steps.int().view(out_features, in_features), scale, low + 8 * scale


def loses_nothing(weight: torch.Tensor) -> bool:
    """Whether 4-bit groups carry these weights, as they do when the weights came from such a file."""
    if weight.dtype is not torch.bfloat16 or weight.shape[1] % GROUP or weight.shape[0] % 16:
        return False
    steps, scale, zero = quantise(weight)
    recovered = (steps.view(*scale.shape, GROUP) - 8) * scale.unsqueeze(-1) + zero.unsqueeze(-1)
    original = weight.float().view_as(recovered)
    return bool((recovered - original).norm() <= LOSSLESS * original.norm())
