"""Attention for packed rows: many documents in one row of tokens, shared beginnings once.

The packed row is the depth-first order of a tree of segments. A token sees the earlier tokens of its own segment and
all tokens of the segments above it. Two forms of the same thing:

- `reference`: a dense [N, N] mask. Slow and obvious.
- `packed` (module `packed_attention`): segments with the same ancestors form a group that is computed as one batch.

Dimensions: N packed tokens, H query heads, K key/value heads, G = H / K, D head dim, B segments of a group, T their
padded length, P tokens of their shared context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "tunery_packed"

# Probabilities of a layer are kept for the backward up to this size; beyond it they are computed again.
KEEP_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class SegmentGroup:
    """Segments with the same ancestors. Positions are those of the packed row."""

    context: tuple[range, ...]  # the ancestors, root first
    segments: tuple[range, ...]


@dataclass(frozen=True)
class Group:
    """A SegmentGroup as index tensors, and its share of the padded slots of the whole plan."""

    num_segments: int  # B
    length: int  # T
    context: Tensor | None  # [P] packed positions
    query_rows: Tensor  # [K * B * G * T] rows of a [N * H, D] matrix; a pad repeats token 0
    key_rows: Tensor  # [K * B * (P + T)] rows of a [N * K, D] matrix: the context again for every segment
    pads: Tensor | None  # [B, T] bool, None without padding
    slots: slice  # of the plan's query slots
    key_slots: slice

    @property
    def context_length(self) -> int:
        return 0 if self.context is None else self.context.numel()


@dataclass(frozen=True)
class AttentionPlan:
    num_heads: int
    num_kv_heads: int
    subtree_end: Tensor  # [N]: token j is seen by the tokens i with j <= i < subtree_end[j]
    groups: tuple[Group, ...]
    query_slots: Tensor  # [N * H]: where each query row stands among the padded slots
    key_slots: Tensor  # [N * K]
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
        num_tokens, per_kv = len(subtree_end), num_heads // num_kv_heads
        query_slots = torch.zeros(num_tokens * num_heads, dtype=torch.long)
        key_slots = torch.zeros(num_tokens * num_kv_heads, dtype=torch.long)
        built: list[Group] = []
        query_offset = key_offset = scores = 0
        for group in groups:
            made = _index(group, num_kv_heads, per_kv, query_offset, key_offset)
            _invert(made, num_kv_heads, per_kv, query_slots, key_slots)
            query_offset, key_offset = made.slots.stop, made.key_slots.stop
            scores += made.query_rows.numel() * (made.length + made.context_length)
            built.append(_to_device(made, device))
        return cls(
            num_heads, num_kv_heads, torch.tensor(subtree_end, device=device), tuple(built), query_slots.to(device),
            key_slots.to(device), query_offset, key_offset, max_position, keep_probabilities=2 * scores <= KEEP_BYTES,
        )  # fmt: skip

    def causal_mask(self, start: int, stop: int, context: int, like: Tensor) -> Tensor:
        """Additive [G * (stop - start), context + stop] mask of the queries start..stop of a segment."""
        key = (start, stop, context, like.dtype)
        if key not in self.masks:
            rows = torch.arange(start, stop, device=like.device)[:, None]
            hidden = torch.arange(-context, stop, device=like.device)[None, :] > rows
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
            self.masks[key] = mask.repeat(self.num_heads // self.num_kv_heads, 1)
        return self.masks[key]


def _index(group: SegmentGroup, kv_heads: int, per_kv: int, query_offset: int, key_offset: int) -> Group:
    count, length = len(group.segments), max(len(segment) for segment in group.segments)
    own = torch.zeros(count, length, dtype=torch.long)
    pads = torch.ones(count, length, dtype=torch.bool)
    for row, segment in enumerate(group.segments):
        own[row, : len(segment)] = torch.arange(segment.start, segment.stop)
        pads[row, : len(segment)] = False
    parts = [torch.arange(part.start, part.stop) for part in group.context]
    context = torch.cat(parts) if parts else None
    keys = own if context is None else torch.cat([context.expand(count, -1), own], 1)
    kv = torch.arange(kv_heads)
    heads = (kv[:, None] * per_kv + torch.arange(per_kv)).view(kv_heads, 1, per_kv, 1)
    query_rows = (own[None, :, None, :] * (kv_heads * per_kv) + heads).flatten()
    key_rows = (keys[None] * kv_heads + kv[:, None, None]).flatten()
    return Group(
        count, length, context, query_rows, key_rows, pads if bool(pads.any()) else None,
        slice(query_offset, query_offset + query_rows.numel()), slice(key_offset, key_offset + key_rows.numel()),
    )  # fmt: skip


def _invert(group: Group, kv_heads: int, per_kv: int, query_slots: Tensor, key_slots: Tensor) -> None:
    """Note where each query row and each segment's own key row stands among the slots."""
    real = torch.ones(group.num_segments, group.length, dtype=torch.bool) if group.pads is None else ~group.pads
    shape = (kv_heads, group.num_segments, per_kv, group.length)
    kept = real[None, :, None].expand(shape).flatten()
    query_slots[group.query_rows[kept]] = torch.arange(group.slots.start, group.slots.stop)[kept]
    own = torch.cat([torch.zeros(group.num_segments, group.context_length, dtype=torch.bool), real], 1)
    kept = own.expand(kv_heads, -1, -1).flatten()
    key_slots[group.key_rows[kept]] = torch.arange(group.key_slots.start, group.key_slots.stop)[kept]


def _to_device(group: Group, device: torch.device | str) -> Group:
    moved = {
        name: value.to(device)
        for name in ("context", "query_rows", "key_rows", "pads")
        if (value := getattr(group, name)) is not None
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


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    plan: AttentionPlan | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls. Everything this attention cannot do is refused rather than left out."""
    from tunery.modeling.packed_attention import packed

    if plan is None:
        raise ValueError("Packed attention needs a plan: call the model with plan=…")
    window = kwargs.get("sliding_window")
    if window is not None and plan.max_position >= window:
        raise ValueError(f"This model looks back {window} tokens only; longer examples cannot be trained on it yet.")
    if dropout or kwargs.get("softcap") is not None:
        raise ValueError("This model's attention uses dropout or a soft cap, which packed attention does not have.")
    return packed(query, key, value, plan, scaling), None


def register() -> None:
    """Make `attn_implementation="tunery_packed"` known to transformers."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, attention_forward)
