"""Attention for packed rows: many documents in one row of tokens, shared beginnings once.

The packed row is the depth-first order of a tree of segments. A token sees the earlier tokens of its own segment and
all tokens of the segments above it. Two forms of the same thing:

- `reference`: a dense [N, N] mask. Slow and obvious.
- `packed` (module `packed_attention`): segments with the same ancestors form a group that is computed as one batch.

Dimensions: N packed tokens, H query heads, K key/value heads, G = H / K, D head dim, B segments of a group, T their
padded length, P tokens of their shared context. "Rows" are those of a [N * (H + 2K), D] matrix: for each token its
queries, keys and values, head by head, as the projection leaves them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tunery.training.forward.packing import SegmentGroup

# Probabilities of a layer are kept for the backward up to this size; beyond it they are computed again.
KEEP_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class Group:
    """A SegmentGroup as index tensors, and its share of the padded slots of the whole plan."""

    num_segments: int  # B
    length: int  # T
    context: tuple[range, ...]  # packed positions, P in all
    rows: Tensor  # queries [K * B * G * T], then keys and values [K * B * (P + T)] each; a pad repeats token 0
    out_rows: Tensor  # [K * B * G * T] rows of a [N * H, D] matrix: the queries' own
    pads: Tensor | None  # which of the queries are none; None without padding
    slots: slice  # of the plan's query slots
    key_slots: slice

    @property
    def context_length(self) -> int:
        return sum(map(len, self.context))


@dataclass(frozen=True)
class AttentionPlan:
    num_heads: int
    num_kv_heads: int
    subtree_end: Tensor  # [N]: token j is seen by the tokens i with j <= i < subtree_end[j]
    groups: tuple[Group, ...]
    out_slots: Tensor  # [N * H]: where each query stands among the query slots
    row_slots: Tensor  # [N * (H + 2K)]: where each row stands among all slots: queries, then keys, then values
    num_query_slots: int
    num_key_slots: int
    max_position: int
    keep_probabilities: bool
    masks: dict[Any, Any] = field(default_factory=dict, repr=False)  # made on first use, shared by all layers

    @classmethod
    def build(
        cls,
        groups: Sequence[SegmentGroup],
        subtree_end: Sequence[int],
        *,
        num_heads: int,
        num_kv_heads: int,
        max_position: int,
        device: torch.device | str = "cpu",
    ) -> "AttentionPlan":
        num_tokens, shape = len(subtree_end), (num_kv_heads, num_heads // num_kv_heads)
        query_slots = torch.zeros(num_tokens, num_heads, dtype=torch.long)
        key_slots = torch.zeros(num_tokens, num_kv_heads, dtype=torch.long)
        built: list[Group] = []
        query_offset = key_offset = scores = 0
        for group in groups:
            made = _index(group, shape, query_offset, key_offset)
            _invert(group, made, query_slots, key_slots)
            query_offset, key_offset = made.slots.stop, made.key_slots.stop
            scores += made.out_rows.numel() * (made.length + made.context_length)
            built.append(_to_device(made, device))
        row_slots = torch.cat([query_slots, query_offset + key_slots, query_offset + key_offset + key_slots], 1)
        return cls(
            num_heads, num_kv_heads, torch.tensor(subtree_end, device=device), tuple(built),
            query_slots.flatten().to(device), row_slots.flatten().to(device), query_offset, key_offset, max_position,
            keep_probabilities=2 * scores <= KEEP_BYTES,
        )  # fmt: skip


def _index(group: SegmentGroup, shape: tuple[int, int], query_offset: int, key_offset: int) -> Group:
    """shape: K and G"""
    kv_heads, per_kv = shape
    count, length = len(group.segments), max(len(segment) for segment in group.segments)
    own = torch.zeros(count, length, dtype=torch.long)
    pads = torch.ones(count, length, dtype=torch.bool)
    for row, segment in enumerate(group.segments):
        own[row, : len(segment)] = torch.arange(segment.start, segment.stop)
        pads[row, : len(segment)] = False
    above = torch.tensor([position for part in group.context for position in part], dtype=torch.long)
    keys = torch.cat([above.expand(count, -1), own], 1)
    heads, per_token = kv_heads * per_kv, kv_heads * (per_kv + 2)
    kv = torch.arange(kv_heads)
    head = (kv[:, None] * per_kv + torch.arange(per_kv)).view(kv_heads, 1, per_kv, 1)
    queries = own[None, :, None, :]
    key_rows = (keys[None] * per_token + heads + kv[:, None, None]).flatten()
    out_rows = (queries * heads + head).flatten()
    rows = torch.cat([(queries * per_token + head).flatten(), key_rows, key_rows + kv_heads])
    spread = pads[None, :, None].expand(kv_heads, -1, per_kv, -1).flatten()
    return Group(
        count, length, group.context, rows, out_rows, spread.nonzero()[:, 0] if bool(pads.any()) else None,
        slice(query_offset, query_offset + out_rows.numel()), slice(key_offset, key_offset + key_rows.numel()),
    )  # fmt: skip


def _invert(group: SegmentGroup, made: Group, query_slots: Tensor, key_slots: Tensor) -> None:
    """Note where each token's queries [N, H] and its own keys [N, K] stand among the slots."""
    kv_heads, count = key_slots.shape[1], made.num_segments
    queries = torch.arange(made.slots.start, made.slots.stop).view(kv_heads, count, -1, made.length)
    keys = torch.arange(made.key_slots.start, made.key_slots.stop).view(kv_heads, count, -1)
    for row, segment in enumerate(group.segments):
        tokens = slice(segment.start, segment.stop)
        query_slots[tokens] = queries[:, row, :, : len(segment)].flatten(0, 1).t()
        start = made.context_length
        key_slots[tokens] = keys[:, row, start : start + len(segment)].t()


def _to_device(group: Group, device: torch.device | str) -> Group:
    moved = {
        name: value.to(device) for name in ("rows", "out_rows", "pads") if (value := getattr(group, name)) is not None
    }
    return replace(group, **moved)


def reference(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float) -> Tensor:
    """The definition: query [1, H, N, D], key and value [1, K, N, D] -> [1, N, H, D]."""
    positions = torch.arange(query.shape[2], device=query.device)
    seen = (positions[None, :] <= positions[:, None]) & (positions[:, None] < plan.subtree_end[None, :])
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = (query @ key.transpose(2, 3)) * scaling
    scores = scores.masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)
