"""The fast form of packed attention: a batched product per group of segments, with a backward of its own.

On a CPU torch's fused attention spends eight times its arithmetic in the backward; explicit batched products with a
softmax run near the speed of the matrix unit. On CUDA the tree goes to FlexAttention as a block mask.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tunery.modeling.attention import AttentionPlan, Group

# Queries of a segment are taken in blocks: half of a causal square is never computed and long documents fit.
QUERY_BLOCK = 512


def packed(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float) -> Tensor:
    """query [1, H, N, D], key and value [1, K, N, D] -> [1, N, H, D]."""
    if query.is_cuda:
        from tunery.modeling.flex import flex

        return flex(query, key, value, plan, scaling)
    rows = [tensor.transpose(1, 2).reshape(-1, tensor.shape[-1]) for tensor in (query, key, value)]
    out: Tensor = _Packed.apply(*rows, plan, scaling)  # type: ignore[assignment]
    return out.view(1, query.shape[2], query.shape[1], query.shape[3])


class _Packed(Function):
    """query [N * H, D], key and value [N * K, D], rows of a token side by side."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, scaling: float) -> Tensor:
        out, kept = attend(q, k, v, plan, scaling, keep=any(ctx.needs_input_grad))
        ctx.plan, ctx.scaling = plan, scaling
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        return *attend_backward(grads[0], q, k, v, ctx.plan, ctx.scaling, kept), None, None


def attend(
    q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, scaling: float, *, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """q [N * H, D], k and v [N * K, D] -> [N * H, D], and the probabilities for the backward where they are small."""
    slots = q.new_empty(plan.num_query_slots, q.shape[1])
    kept: list[Tensor] = []
    for group in plan.groups:
        view = _View(group, plan, q, k, v, scaling)
        out = view.queries(slots[group.slots])
        for block in reversed(view.blocks()):  # in the order of the backward
            probabilities = view.probabilities(block)
            out[:, :, block] = view.unfold(torch.bmm(probabilities, view.seen(view.value, block)))
            if keep and plan.keep_probabilities:
                kept.append(probabilities)
    return slots.index_select(0, plan.query_slots), kept


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, scaling: float, kept: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v. `kept` as `attend` gave it; empty: computed again."""
    query_slots = q.new_empty(plan.num_query_slots, q.shape[1])
    key_slots, value_slots = (q.new_empty(plan.num_key_slots, q.shape[1]) for _ in range(2))
    probabilities = iter(kept)
    for group in plan.groups:
        view = _View(group, plan, q, k, v, scaling)
        into = view.queries(query_slots[group.slots]), key_slots[group.key_slots], value_slots[group.key_slots]
        _group_backward(view, group, grad, into, probabilities if kept else None)
    return (
        query_slots.index_select(0, plan.query_slots),
        _keys_backward(plan, key_slots),
        _keys_backward(plan, value_slots),
    )


class _View:
    """A group's rows in the layout of its products: heads first, then segments, then the G heads of a key head."""

    def __init__(self, group: Group, plan: AttentionPlan, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> None:
        self.plan, self.scaling = plan, scaling
        self.per_kv, self.dim = plan.num_heads // plan.num_kv_heads, q.shape[1]
        self.batch = plan.num_kv_heads * group.num_segments
        self.length, self.context = group.length, group.context_length
        self.query = self.queries(q.index_select(0, group.query_rows))
        self.key = self.keys(k.index_select(0, group.key_rows))
        self.value = self.keys(v.index_select(0, group.key_rows))

    def queries(self, rows: Tensor) -> Tensor:
        return rows.view(self.batch, self.per_kv, self.length, self.dim)

    def keys(self, rows: Tensor) -> Tensor:
        return rows.view(self.batch, self.context + self.length, self.dim)

    def blocks(self) -> list[slice]:
        return [slice(start, min(start + QUERY_BLOCK, self.length)) for start in range(0, self.length, QUERY_BLOCK)]

    def fold(self, tensor: Tensor, block: slice) -> Tensor:
        """[K * B, G * t, D] of a [K * B, G, T, D] tensor"""
        return tensor[:, :, block].reshape(self.batch, -1, self.dim)

    def unfold(self, rows: Tensor) -> Tensor:
        return rows.view(self.batch, self.per_kv, -1, self.dim)

    def seen(self, keys: Tensor, block: slice) -> Tensor:
        """The keys or values that the queries of a block can see: the context and the segment up to its end."""
        return keys[:, : self.context + block.stop]

    def probabilities(self, block: slice) -> Tensor:
        """[K * B, G * t, P + stop]"""
        rows = self.fold(self.query, block)
        mask = self.plan.causal_mask(block.start, block.stop, self.context, like=rows)
        scores = torch.baddbmm(mask, rows, self.seen(self.key, block).transpose(1, 2), alpha=self.scaling)
        return scores.softmax(-1)


def _group_backward(
    view: _View, group: Group, grad: Tensor, into: tuple[Tensor, Tensor, Tensor], kept: Iterator[Tensor] | None
) -> None:
    """Write the gradients of a group's queries, keys and values into their slots."""
    grad_query, grad_key, grad_value = into[0], view.keys(into[1]), view.keys(into[2])
    grad_out = view.queries(grad.index_select(0, group.query_rows))
    if group.pads is not None:
        shape = (-1, group.num_segments, view.per_kv, view.length, view.dim)
        grad_out.view(shape).masked_fill_(group.pads[:, None, :, None], 0)
    blocks = view.blocks()
    # The last block sees every key, so it comes first and writes; the others add.
    for number, block in enumerate(reversed(blocks)):
        probabilities = view.probabilities(block) if kept is None else next(kept)
        rows, out = view.fold(view.query, block), view.fold(grad_out, block)
        scores = torch.bmm(out, view.seen(view.value, block).transpose(1, 2))
        scores = torch.ops.aten._softmax_backward_data(scores, probabilities, -1, scores.dtype)
        query = view.unfold(torch.bmm(scores, view.seen(view.key, block)))
        torch.mul(query, view.scaling, out=grad_query[:, :, block])
        if number == 0:
            torch.bmm(probabilities.transpose(1, 2), out, out=grad_value)
            torch.bmm(scores.transpose(1, 2), rows, out=grad_key)
        else:
            view.seen(grad_value, block).add_(torch.bmm(probabilities.transpose(1, 2), out))
            view.seen(grad_key, block).add_(torch.bmm(scores.transpose(1, 2), rows))
    grad_key.mul_(view.scaling)


def _keys_backward(plan: AttentionPlan, slots: Tensor) -> Tensor:
    """[N * K, D]: each token's own slot, and for a context the sum over the segments that saw it."""
    grad = slots.index_select(0, plan.key_slots)
    for group in plan.groups:
        if group.context is not None:
            shape = (plan.num_kv_heads, group.num_segments, group.context_length + group.length, -1)
            shared = slots[group.key_slots].view(shape)[:, :, : group.context_length].sum(1)  # [K, P, D]
            rows = grad.view(-1, plan.num_kv_heads * grad.shape[1])
            rows.index_add_(0, group.context, shared.transpose(0, 1).reshape(group.context_length, -1))
    return grad
