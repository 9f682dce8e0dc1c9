"""Adapted linear layers with one input as one matrix product, forward and backward."""

import torch
from torch import Tensor

from tunery.kernels import mixed_product
from tunery.training.forward.lora import LoraLinear
from tunery.training.forward.memory import Scratch


class FusedLinear:
    """Several adapted linear layers with one input. Their weights and compute copies become parts of its matrices."""

    def __init__(self, members: list[LoraLinear], scratch: Scratch) -> None:
        self.members, self.scratch = members, scratch
        self.matmul_dtype = members[0].matmul_dtype
        outs, ranks = [m.base.out_features for m in members], [m.lora_A.shape[0] for m in members]
        self.num_in, self.num_out = members[0].base.in_features, sum(outs)
        like = members[0].base.weight
        self.weight = like.new_zeros(self.num_out, self.num_in + sum(ranks))  # [W, scaling · B], B block by block
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

    def room(self, num_rows: int) -> Tensor:
        """An [x, h] in the product type, whose x is the caller's to write. Scratch "input"."""
        return self.scratch.take("input", (num_rows, self.weight.shape[1]), self.matmul_dtype)

    def forward(self, extended: Tensor, y: Tensor) -> Tensor:
        """Writes y [N, out] of an [x, h] whose x is written; gives h [N, ranks]. Both in the weights' type."""
        dtype = self.matmul_dtype
        h = extended[:, : self.num_in] @ self.shrink.t().to(dtype)
        extended[:, self.num_in :] = h
        wide = y if dtype is y.dtype else self.scratch.take("output", tuple(y.shape), dtype)
        if mixed_product.suits(extended, self.weight):
            mixed_product.linear(extended, self.weight, wide)
        else:
            torch.mm(extended, self._wide_weight().t(), out=wide)
        if self.bias is not None:
            wide.add_(self.bias)
        if wide is not y:
            y.copy_(wide)
        return h.to(y.dtype)

    def backward(self, grad: Tensor, x: Tensor, h: Tensor, *, wants_input: bool) -> tuple[Tensor | None, list[Tensor]]:
        """The gradients of [x, h], of which x's part is the whole one, and of A and B of each member.

        grad [N, out] and x [N, in] in the product type, as is the first result, scratch "gradient"; h as `forward`
        gave it.
        """
        dtype = self.matmul_dtype
        both: Tensor | None = None
        if wants_input:
            both = self.scratch.take("gradient", (grad.shape[0], self.weight.shape[1]), dtype)
            if mixed_product.suits(grad, self.weight):
                mixed_product.times(grad, self.weight, both)
            else:
                torch.mm(grad, self._wide_weight(), out=both)
            grad_h = both[:, self.num_in :]
            both[:, : self.num_in].addmm_(grad_h, self.shrink.to(dtype))
        else:
            grad_h = grad @ self.weight[:, self.num_in :].to(dtype)
        grad_a = grad_h.t() @ x
        wide_h, grads = h.to(dtype), list[Tensor]()
        for member, (rows, columns) in zip(self.members, self.blocks, strict=True):
            grads.append(grad_a[columns].float())
            grad_b = wide_h[:, columns].t() @ grad[:, rows]
            grads.append(grad_b.t().float().mul_(member.scaling))
        return both, grads

    def _wide_weight(self) -> Tensor:
        """In the product type. Scratch "weight". [out, in + ranks]."""
        if self.matmul_dtype is self.weight.dtype:
            return self.weight
        return self.scratch.take("weight", tuple(self.weight.shape), self.matmul_dtype).copy_(self.weight)
