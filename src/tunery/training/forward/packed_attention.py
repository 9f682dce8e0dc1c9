"""The fast form of packed attention: a batched product per group of segments, with a backward of its own.

On a CPU torch's fused attention spends eight times its arithmetic in the backward; explicit batched products with a
softmax run near the speed of the matrix unit. On CUDA the tree goes to FlexAttention as a block mask.

The columns of a group's scores are its context and its own segment, so a column's number is the position of the token
that it stands for: a window of positions is one of columns.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tunery.kernels.compile import as_array
from tunery.kernels.layers import ALL, causal_softmax, causal_softmax_backward
from tunery.training.forward.attention import AttentionPlan, Group
from tunery.training.forward.memory import SavedActivations, Scratch

# Queries of a segment are taken in blocks: half of a causal square is never computed and long documents fit.
# Measured on texts of 200 tokens: smaller blocks pay for more calls, larger ones for more of the square.
QUERY_BLOCK = 128


def packed(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float, window: int = ALL) -> Tensor:
    """query [1, H, N, D], key and value [1, K, N, D] -> [1, N, H, D]. window: positions that a token sees; not on
    CUDA."""
    if query.is_cuda:
        from tunery.training.forward.flex import flex

        return flex(query, key, value, plan, scaling)
    rows = torch.cat([query, key, value], 1)[0].transpose(0, 1).reshape(-1, query.shape[3])
    out: Tensor = _Packed.apply(rows, plan, scaling, window)  # type: ignore[assignment]
    return out.view(1, query.shape[2], query.shape[1], query.shape[3])


class _Packed(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: AttentionPlan, scaling: float, window: int) -> Tensor:
        """rows [N · (H + 2K), D] → [N · H, D]."""
        memory = SavedActivations(0) if any(ctx.needs_input_grad) else None
        out, kept = attend(rows, plan, scaling, Scratch(), memory, window)
        ctx.given = plan, scaling, window
        ctx.save_for_backward(rows, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """grads: one, [N · H, D]. The gradient of the rows [N · (H + 2K), D]."""
        rows, *kept = ctx.saved_tensors
        plan, scaling, window = ctx.given
        return attend_backward(grads[0], rows, plan, scaling, Scratch(), kept, window), None, None, None


def attend(
    rows: Tensor,
    plan: AttentionPlan,
    scaling: float,
    scratch: Scratch,
    memory: SavedActivations | None,
    window: int = ALL,
) -> tuple[Tensor, list[Tensor]]:
    """rows [N * (H + 2K), D] -> [N * H, D], and the probabilities for the backward, in `memory`, where they are small.

    memory None: the backward computes them again. window: positions that a token sees, its own included.
    """
    slots = scratch.take("slots", (plan.num_query_slots, rows.shape[1]), rows.dtype)
    kept: list[Tensor] = []
    memory = memory if plan.keep_probabilities else None
    for group in plan.groups:
        view = _View(group, plan, rows, scaling, scratch, window)
        out = view.queries(slots[group.slots])
        for block in reversed(view.blocks()):  # in the order of the backward
            probabilities = view.probabilities(block, memory)
            view.put(out, block, probabilities, view.seen(view.value, block))
            if memory is not None:
                kept.append(probabilities)
    return slots.index_select(0, plan.out_slots), kept


def attend_backward(
    grad: Tensor,
    rows: Tensor,
    plan: AttentionPlan,
    scaling: float,
    scratch: Scratch,
    kept: Sequence[Tensor],
    window: int = ALL,
) -> Tensor:
    """The gradient of the rows; grad [N * H, D]. `kept` as `attend` gave it; empty: computed again."""
    counts = [plan.num_query_slots, plan.num_key_slots, plan.num_key_slots]
    slots = scratch.take("slots", (sum(counts), rows.shape[1]), rows.dtype)
    query_slots, key_slots, value_slots = slots.split(counts)
    probabilities = iter(kept) if kept else None
    for group in plan.groups:
        view = _View(group, plan, rows, scaling, scratch, window)
        into = query_slots[group.slots], key_slots[group.key_slots], value_slots[group.key_slots]
        _group_backward(view, group, grad, into, probabilities)
    grad_rows = slots.index_select(0, plan.row_slots)
    _add_contexts(plan, grad_rows, key_slots, value_slots)
    return grad_rows


class _View:
    """A group's rows in the layout of its products: heads first, then segments, then the G heads of a key head."""

    def __init__(
        self, group: Group, plan: AttentionPlan, rows: Tensor, scaling: float, scratch: Scratch, window: int
    ) -> None:
        """rows [N · (H + 2K), D] of the whole plan."""
        self.scaling, self.scratch, self.window = scaling, scratch, window
        self.per_kv, self.dim = plan.num_heads // plan.num_kv_heads, rows.shape[1]
        self.batch = plan.num_kv_heads * group.num_segments
        self.length, self.context = group.length, group.context_length
        num_queries, num_keys = group.out_rows.numel(), self.batch * (self.context + self.length)
        gathered = scratch.take("gathered", (num_queries + 2 * num_keys, self.dim), rows.dtype)
        torch.index_select(rows, 0, group.rows, out=gathered)
        query, key, value = gathered.split([num_queries, num_keys, num_keys])
        self.query, self.key, self.value = self.queries(query), self.keys(key), self.keys(value)

    def queries(self, rows: Tensor) -> Tensor:
        """rows [K · B · G · T, D] → [K · B, G, T, D]."""
        return rows.view(self.batch, self.per_kv, self.length, self.dim)

    def keys(self, rows: Tensor) -> Tensor:
        """rows [K · B · (P + T), D] → [K · B, P + T, D]."""
        return rows.view(self.batch, self.context + self.length, self.dim)

    def blocks(self) -> list[slice]:
        return [slice(start, min(start + QUERY_BLOCK, self.length)) for start in range(0, self.length, QUERY_BLOCK)]

    def fold(self, tensor: Tensor, block: slice) -> Tensor:
        """[K * B, G * t, D] of a [K * B, G, T, D] tensor"""
        return tensor[:, :, block].reshape(self.batch, -1, self.dim)

    def unfold(self, rows: Tensor) -> Tensor:
        """rows [K · B, G · t, D] → [K · B, G, t, D]."""
        return rows.view(self.batch, self.per_kv, -1, self.dim)

    def seen(self, keys: Tensor, block: slice) -> Tensor:
        """The keys or values that the queries of a block can see: the context and the segment up to its end.

        keys [K · B, P + T, D].
        """
        return keys[:, : self.context + block.stop]

    def put(self, out: Tensor, block: slice, weights: Tensor, keys: Tensor) -> None:
        """The block's part of out [K * B, G, T, D] = weights · keys."""
        if block.stop - block.start == self.length:
            torch.bmm(weights, keys, out=out.view(self.batch, -1, self.dim))
        else:
            out[:, :, block] = self.unfold(torch.bmm(weights, keys))

    def probabilities(self, block: slice, memory: SavedActivations | None = None) -> Tensor:
        """[K * B, G * t, P + stop], in `memory` or in scratch "probabilities"."""
        query, key = self.fold(self.query, block), self.seen(self.key, block)
        shape = (*query.shape[:2], key.shape[1])
        out = memory.take(shape, query.dtype) if memory else self.scratch.take("probabilities", shape, query.dtype)
        scores = self.scaled(query, key, out)
        causal_softmax(as_array(scores), block.stop - block.start, self.context + block.start, self.window)
        return scores

    def scores_grad(self, grad: Tensor, probabilities: Tensor, block: slice) -> None:
        """Takes the place of the probabilities' gradient. Both [K · B, G · t, P + stop]."""
        length, before = block.stop - block.start, self.context + block.start
        causal_softmax_backward(as_array(grad), as_array(probabilities), length, before, self.window)

    def scaled(self, rows: Tensor, keys: Tensor, out: Tensor) -> Tensor:
        """out = scaling · rows keysᵀ. With beta=0 the first argument is not read.

        rows [K · B, G · t, D], keys [K · B, S, D], out [K · B, G · t, S].
        """
        return torch.baddbmm(rows.new_empty(1), rows, keys.transpose(1, 2), beta=0, alpha=self.scaling, out=out)


def _group_backward(
    view: _View, group: Group, grad: Tensor, into: tuple[Tensor, Tensor, Tensor], kept: Iterator[Tensor] | None
) -> None:
    """Write the gradients of a group's queries, keys and values into their slots.

    grad [N · H, D], into [slots, D] each.
    """
    grad_query, grad_key, grad_value = view.queries(into[0]), view.keys(into[1]), view.keys(into[2])
    grad_rows = view.scratch.take("gathered gradient", (len(group.out_rows), grad.shape[1]), grad.dtype)
    torch.index_select(grad, 0, group.out_rows, out=grad_rows)
    if group.pads is not None:
        grad_rows.index_fill_(0, group.pads, 0)
    grad_out = view.queries(grad_rows)
    # The last block sees every key, so it comes first and writes; the others add.
    for number, block in enumerate(reversed(view.blocks())):
        probabilities = view.probabilities(block) if kept is None else next(kept)
        rows, out = view.fold(view.query, block), view.fold(grad_out, block)
        # Scaled here, it scales those of query and key.
        scores = view.scratch.take("scores", tuple(probabilities.shape), out.dtype)
        view.scaled(out, view.seen(view.value, block), scores)
        view.scores_grad(scores, probabilities, block)
        view.put(grad_query, block, scores, view.seen(view.key, block))
        if number == 0:
            torch.bmm(probabilities.transpose(1, 2), out, out=grad_value)
            torch.bmm(scores.transpose(1, 2), rows, out=grad_key)
        else:
            view.seen(grad_value, block).add_(torch.bmm(probabilities.transpose(1, 2), out))
            view.seen(grad_key, block).add_(torch.bmm(scores.transpose(1, 2), rows))


def _add_contexts(plan: AttentionPlan, grad_rows: Tensor, key_slots: Tensor, value_slots: Tensor) -> None:
    """A token's slot holds what its own segment's queries asked of it; those below see it as their context.

    grad_rows [N · (H + 2K), D], key_slots and value_slots [slots, D].
    """
    heads, kv_heads = plan.num_heads, plan.num_kv_heads
    tokens = grad_rows.view(-1, heads + 2 * kv_heads, grad_rows.shape[1])
    places = ((key_slots, slice(heads, heads + kv_heads)), (value_slots, slice(heads + kv_heads, None)))
    for group in plan.groups:
        shape = (kv_heads, group.num_segments, group.context_length + group.length, -1)
        for slots, columns in places if group.context else ():
            shared = (
                slots[group.key_slots].view(shape)[:, :, : group.context_length].sum(1).transpose(0, 1)
            )  # [P, K, D]
            start = 0
            for part in group.context:
                tokens[part.start : part.stop, columns].add_(shared[start : start + len(part)])
                start += len(part)
