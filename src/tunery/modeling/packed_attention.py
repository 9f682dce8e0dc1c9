"""The fast form of packed attention: a batched product per group of segments, with a backward of its own.

On a CPU torch's fused attention spends eight times its arithmetic in the backward; explicit batched products with a
softmax run near the speed of the matrix unit. On CUDA the tree goes to FlexAttention as a block mask.
"""

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
        slots = q.new_empty(plan.num_query_slots, q.shape[1])
        kept: list[Tensor] = []
        keep = plan.keep_probabilities and any(ctx.needs_input_grad)
        for group in plan.groups:
            view = _View(group, plan, q, k, v)
            out = view.queries(slots[group.slots])
            for block in view.blocks():
                probabilities = view.probabilities(block, plan, scaling)
                view.mix(block, probabilities, out)
                if keep:
                    kept.append(probabilities)
        ctx.plan, ctx.scaling, ctx.kept = plan, scaling, kept
        ctx.save_for_backward(q, k, v)
        return slots.index_select(0, plan.query_slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        plan: AttentionPlan = ctx.plan
        query_slots = q.new_empty(plan.num_query_slots, q.shape[1])
        key_slots, value_slots = (q.new_empty(plan.num_key_slots, q.shape[1]) for _ in range(2))
        shared: list[tuple[Tensor, Tensor, Tensor]] = []
        kept = iter(ctx.kept)
        for group in plan.groups:
            view = _View(group, plan, q, k, v)
            grad = _GroupGrad(view, group, grads[0], query_slots, key_slots, value_slots)
            for block in view.blocks():
                probabilities = next(kept) if ctx.kept else view.probabilities(block, plan, ctx.scaling)
                grad.add(block, probabilities, ctx.scaling)
            grad.finish(ctx.scaling)
            if group.context is not None:
                shared.append((group.context, grad.context_key, grad.context_value))
        ctx.kept = []
        grad_k = key_slots.index_select(0, plan.key_slots)
        grad_v = value_slots.index_select(0, plan.key_slots)
        for context, context_key, context_value in shared:
            _add_context(grad_k, context, context_key)
            _add_context(grad_v, context, context_value)
        return query_slots.index_select(0, plan.query_slots), grad_k, grad_v, None, None


def _add_context(grad: Tensor, context: Tensor, addend: Tensor) -> None:
    """grad [N * K, D] += addend [K, P, D] at the packed positions `context`."""
    kv_heads, length, dim = addend.shape
    rows = grad.view(-1, kv_heads * dim)
    rows.index_add_(0, context, addend.transpose(0, 1).reshape(length, kv_heads * dim))


class _View:
    """A group's rows in the layout of its products: heads first, then segments, then the G heads of a key head."""

    def __init__(self, group: Group, plan: AttentionPlan, q: Tensor, k: Tensor, v: Tensor) -> None:
        self.kv, self.per_kv, self.dim = plan.num_kv_heads, plan.num_heads // plan.num_kv_heads, q.shape[1]
        self.count, self.length = group.num_segments, group.length
        self.query = self.queries(q.index_select(0, group.query_rows))
        self.key = k.index_select(0, group.key_rows).view(self.kv * self.count, self.length, self.dim)
        self.value = v.index_select(0, group.key_rows).view(self.kv * self.count, self.length, self.dim)
        self.context_key = self.context_value = None
        if group.context is not None:
            self.context_key = self._context(k, group.context)
            self.context_value = self._context(v, group.context)

    def queries(self, rows: Tensor) -> Tensor:
        return rows.view(self.kv * self.count, self.per_kv, self.length, self.dim)

    def _context(self, rows: Tensor, context: Tensor) -> Tensor:
        """[K, P, D], by heads"""
        tokens = rows.view(-1, self.kv, self.dim).index_select(0, context)
        return tokens.transpose(0, 1).contiguous()

    def blocks(self) -> list[tuple[int, int]]:
        return [(start, min(start + QUERY_BLOCK, self.length)) for start in range(0, self.length, QUERY_BLOCK)]

    def rows_of(self, block: tuple[int, int], tensor: Tensor) -> Tensor:
        """[K * B, G * t, D] of a [K * B, G, T, D] tensor"""
        return tensor[:, :, block[0] : block[1]].reshape(self.kv * self.count, -1, self.dim)

    def by_head(self, rows: Tensor) -> Tensor:
        """The same rows as one matrix for each key head: what meets the shared context."""
        return rows.view(self.kv, -1, rows.shape[-1])

    def probabilities(self, block: tuple[int, int], plan: AttentionPlan, scaling: float) -> Tensor:
        """[K * B, G * t, P + stop]: the context's keys first."""
        rows = self.rows_of(block, self.query)
        mask = plan.causal_mask(*block, like=rows)
        own = torch.baddbmm(mask, rows, self.key[:, : block[1]].transpose(1, 2), alpha=scaling)
        if self.context_key is None:
            return own.softmax(-1)
        context = torch.bmm(self.by_head(rows), self.context_key.transpose(1, 2)).mul_(scaling)
        return torch.cat([context.view(*own.shape[:2], -1), own], -1).softmax(-1)

    def mix(self, block: tuple[int, int], probabilities: Tensor, out: Tensor) -> None:
        context_length = probabilities.shape[-1] - block[1]
        mixed = torch.bmm(probabilities[..., context_length:], self.value[:, : block[1]])
        if self.context_value is not None:
            # A view of the same rows, so the context is added in place.
            by_head = self.by_head(mixed)
            by_head.baddbmm_(self.by_head(probabilities)[..., :context_length], self.context_value)
        out[:, :, block[0] : block[1]] = mixed.view(out.shape[0], self.per_kv, -1, self.dim)


class _GroupGrad:
    """Sums the gradients of a group over its query blocks."""

    def __init__(
        self, view: _View, group: Group, grad: Tensor, query_slots: Tensor, key_slots: Tensor, value_slots: Tensor
    ) -> None:
        self.view = view
        self.query = view.queries(query_slots[group.slots])
        self.key = key_slots[group.key_slots].view_as(view.key).zero_()
        self.value = value_slots[group.key_slots].view_as(view.value).zero_()
        self.out = view.queries(grad.index_select(0, group.query_rows))
        if group.pads is not None:
            pads = group.pads.view(1, view.count, 1, view.length, 1)
            self.out.view(view.kv, view.count, view.per_kv, view.length, view.dim).masked_fill_(pads, 0)
        if view.context_key is not None and view.context_value is not None:
            self.context_key = torch.zeros_like(view.context_key)
            self.context_value = torch.zeros_like(view.context_value)

    def add(self, block: tuple[int, int], probabilities: Tensor, scaling: float) -> None:
        view, stop = self.view, block[1]
        rows, out = view.rows_of(block, view.query), view.rows_of(block, self.out)
        context_length = probabilities.shape[-1] - stop
        own = torch.bmm(out, view.value[:, :stop].transpose(1, 2))
        if view.context_value is not None:
            context = torch.bmm(view.by_head(out), view.context_value.transpose(1, 2))
            own = torch.cat([context.view(*own.shape[:2], -1), own], -1)
        scores = torch.ops.aten._softmax_backward_data(own, probabilities, -1, own.dtype)
        own_scores, own_probabilities = scores[..., context_length:], probabilities[..., context_length:]
        self.value[:, :stop].baddbmm_(own_probabilities.transpose(1, 2), out)
        self.key[:, :stop].baddbmm_(own_scores.transpose(1, 2), rows)
        query = torch.bmm(own_scores, view.key[:, :stop])
        if view.context_key is not None:
            context_scores = view.by_head(scores)[..., :context_length]
            context_probabilities = view.by_head(probabilities)[..., :context_length]
            self.context_value.baddbmm_(context_probabilities.transpose(1, 2), view.by_head(out))
            self.context_key.baddbmm_(context_scores.transpose(1, 2), view.by_head(rows))
            view.by_head(query).baddbmm_(context_scores, view.context_key)
        shape = (self.query.shape[0], view.per_kv, -1, view.dim)
        torch.mul(query.view(shape), scaling, out=self.query[:, :, block[0] : block[1]])

    def finish(self, scaling: float) -> None:
        self.key.mul_(scaling)
        if self.view.context_key is not None:
            self.context_key.mul_(scaling)
