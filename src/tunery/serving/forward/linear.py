"""A frozen linear layer in the forms that suit its batch.

Where the processor multiplies bytes, prompts and answers are computed so. Elsewhere the few rows of a decode step,
which wait for memory, use 4 bits where those lose nothing, as with base weights that came out of a 4-bit file, and
prompts the weights as they were given. So does everywhere what is to be compared with a trainer's numbers.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from tunery.kernels.compile import Array, as_array, as_tensor
from tunery.kernels.int8 import GROUP, EightBit, group_steps
from tunery.kernels.int8 import fits as fits_int8

Precision = Literal["8bit", "4bit", "full"]

FOUR_BIT_ROWS = 5  # beyond it packed bfloat16 is faster: measured, see docs/serving.md
# Share of the weights' norm that may get lost by 4 bits. bfloat16 itself loses 0.0017.
LOSSLESS = 0.006
_PROBED = 64  # outputs that stand for a layer


class Shared(NamedTuple):
    """The same memory for torch and for the loops: making one costs as much as a short loop."""

    tensor: torch.Tensor
    array: Any


def shared(tensor: torch.Tensor) -> Shared:
    """Of any shape."""
    return Shared(tensor, as_array(tensor))


class PackedLinear:
    """y = x Wᵀ + b for a frozen W [out, in].

    `plus` [N, out] below, which y may take the place of, is added before y is rounded: to a y that is rounded already,
    what is less than half a step of bfloat16 would be lost, and so much of an adapter that has learned little.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        precision: Precision = "full",
        matmul_dtype: torch.dtype | None = None,
        members: Sequence[torch.Tensor] = (),
    ) -> None:
        """matmul_dtype: of exact products, see kernels.matmul_dtype; None: the weights' own.

        weight [out, in], bias [out]; members [part of out, in] each: where the weights lie already, in turn.
        """
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self._eight_bit: EightBit | None = None
        self._four_bit: FourBit | None = None
        if precision == "8bit" and fits_int8(*weight.shape):
            # The 16 steps of a 4-bit file stay as they are.
            self._eight_bit = EightBit(weight, bias, most=15 if loses_nothing(weight[:_PROBED]) else 255)
        elif precision == "4bit":
            self._four_bit = FourBit.pack(weight)
        # To widen weights for a few rows takes longer than their product: what was to be bytes and does not fit stays.
        stays = precision == "8bit" and self._eight_bit is None
        self._matmul_dtype = weight.dtype if matmul_dtype is None or stays else matmul_dtype
        self._packed = _pack(weight) if self._matmul_dtype is weight.dtype else None
        # Where they lie they are pages of a file, which the system can take back: exact products are rare.
        self._dense = (list(members) or [weight]) if self._packed is None else []

    def __call__(self, x: Shared, dtype: type[np.generic] | None = None, *, plus: Array | None = None) -> Array:
        """For a decode step: x [N, in] → [N, out] of that type, as the loops read it; None: that of x."""
        if self._eight_bit is not None:
            return self._by_eight_bits(x, dtype, plus)
        made = self._by_four_bits(x.tensor, plus)
        return as_array(made.float() if dtype is np.float32 else made)

    def prompt(self, x: torch.Tensor, plus: Array | None = None) -> torch.Tensor:
        """For a prompt, which does not depend on the number of its rows: x [N, in] → [N, out]."""
        if self._eight_bit is None:
            return self.exact(x, plus)
        return as_tensor(self._by_eight_bits(shared(x), None, plus))

    def _by_eight_bits(self, x: Shared, dtype: type[np.generic] | None, plus: Array | None) -> Array:
        """x [N, in], plus [N, out] → [N, out]."""
        assert self._eight_bit is not None
        if plus is None:
            y = np.empty((len(x.array), self.out_features), dtype or x.array.dtype)
            self._eight_bit(x.array, y)
            return y
        self._eight_bit(x.array, plus, onto=True)
        return plus

    def _by_four_bits(self, x: torch.Tensor, plus: Array | None) -> torch.Tensor:
        """x [N, in], plus [N, out] → [N, out]. Under an adapter the weights as they were given: torch has no such
        product with a sum, and the product alone is rounded."""
        if self._four_bit is None or plus is not None or len(x) > FOUR_BIT_ROWS:
            return self.exact(x, plus)
        y = self._four_bit(x)
        return y if self.bias is None else y.add_(self.bias)

    def exact(self, x: torch.Tensor, plus: Array | None = None) -> torch.Tensor:
        """With the weights as they were given. x [N, in], plus [N, out] → [N, out]."""
        more = None if plus is None else as_tensor(plus)
        if self._packed is not None and more is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, more, self._packed, self.bias, "add")
        if self._packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        wide = self._matmul_dtype if more is None else torch.float32  # to be rounded after the sum
        x_wide, sizes = x.to(wide), [len(part) for part in self._dense]
        biases = [None] * len(sizes) if self.bias is None else self.bias.to(wide).split(sizes)
        parts = zip(self._dense, biases, strict=True)
        y = torch.cat([nn.functional.linear(x_wide, part.to(wide), bias) for part, bias in parts], 1)
        if more is not None:
            y.add_(more)
        return y.to(x.dtype)


def _pack(weight: torch.Tensor) -> torch.Tensor | None:
    """oneDNN's own layout; None where there is none, as for fp32 or on processors without bfloat16.

    weight [out, in].
    """
    if weight.dtype is not torch.bfloat16 or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 16)


class FourBit:
    """Weights as 4-bit steps between the minimum and the maximum of each group of 32."""

    def __init__(self, packed: torch.Tensor, scales: torch.Tensor) -> None:
        """packed [out, in / 2] in the kernel's layout; scales [groups, out, 2]."""
        self._packed = packed
        self._scales = scales

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [N, in] → [N, out]."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._packed, GROUP, self._scales)

    @classmethod
    def pack(cls, weight: torch.Tensor) -> "FourBit":
        """weight [out, in]."""
        steps, scale, low = group_steps(weight, 15)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps.int(), 1)
        # The kernel computes (step - 8) · scale + zero; its pairs lie as [groups, out, 2].
        pairs = torch.stack((scale, low + 8 * scale), dim=-1).transpose(0, 1).contiguous()
        return cls(packed, pairs.to(torch.bfloat16))


def loses_nothing(weight: torch.Tensor) -> bool:
    """Whether 4-bit groups carry these weights, as they do when the weights came from such a file. weight [out, in]."""
    if weight.dtype is not torch.bfloat16 or weight.shape[1] % GROUP or weight.shape[0] % 16:
        return False
    steps, scale, low = group_steps(weight, 15)
    recovered = steps.view(*scale.shape, GROUP) * scale.unsqueeze(-1) + low.unsqueeze(-1)
    original = weight.float().view_as(recovered)
    return bool((recovered - original).norm() <= LOSSLESS * original.norm())
