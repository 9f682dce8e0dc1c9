"""The frozen vocabulary head and its two products."""

import torch
from torch import Tensor

from tunery.kernels import mixed_product
from tunery.training.forward.memory import Scratch

WIDENED = 2**21  # weights that are widened at once, where their type is not that of the products


class Head:
    """weight [V, E]. Where products have a wider type they go by slices of the vocabulary, each widened in scratch."""

    def __init__(self, weight: Tensor, matmul_dtype: torch.dtype, scratch: Scratch, bias: Tensor | None = None) -> None:
        """weight [V, E], bias [V]."""
        self.weight, self.matmul_dtype, self.scratch, self.bias = weight, matmul_dtype, scratch, bias
        self.is_wide = matmul_dtype is not weight.dtype
        size = max(1, WIDENED // weight.shape[1])
        self.slices = [slice(start, min(start + size, len(weight))) for start in range(0, len(weight), size)]

    def logits(self, hidden: Tensor) -> Tensor:
        """[C, V] in the weight's type. hidden [C, E] in the product type."""
        logits = self.weight.new_empty(len(hidden), len(self.weight))
        self._multiply(hidden, logits)
        return logits if self.bias is None else logits.add_(self.bias)

    def _multiply(self, hidden: Tensor, logits: Tensor) -> None:
        """hidden [C, E] · weightᵀ into logits [C, V]."""
        if not self.is_wide:
            torch.mm(hidden, self.weight.t(), out=logits)
            return
        for tokens in self.slices:
            part = self._part(hidden, tokens)
            if mixed_product.suits(hidden, self.weight):
                mixed_product.linear(hidden, self.weight[tokens], part)
            else:
                torch.mm(hidden, self._widened(tokens).t(), out=part)
            logits[:, tokens] = part

    def times(self, error: Tensor) -> Tensor:
        """error [C, V] · weight → [C, E] in the product type. error in the weight's type."""
        if not self.is_wide:
            return error @ self.weight
        total = error.new_zeros(len(error), self.weight.shape[1], dtype=self.matmul_dtype)
        for tokens in self.slices:
            part = self._part(error, tokens).copy_(error[:, tokens])
            if mixed_product.suits(part, self.weight):
                mixed_product.times(part, self.weight[tokens], total, onto=True)
            else:
                total.addmm_(part, self._widened(tokens))
        return total

    def _part(self, rows: Tensor, tokens: slice) -> Tensor:
        """rows [C, …] → scratch [C, tokens]."""
        return self.scratch.take("output", (len(rows), tokens.stop - tokens.start), self.matmul_dtype)

    def _widened(self, tokens: slice) -> Tensor:
        """[tokens, E] in the product type."""
        narrow = self.weight[tokens]
        return self.scratch.take("weight", tuple(narrow.shape), self.matmul_dtype).copy_(narrow)
