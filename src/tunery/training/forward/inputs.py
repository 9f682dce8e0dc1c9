"""A packed row as tensors: what goes into the model, and where it is asked to predict."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunery.training.forward.attention import AttentionPlan
from tunery.training.forward.packing import Row, Tree, build_tree, packed_positions, segment_groups


@dataclass(frozen=True)
class PackedInputs:
    """N packed tokens, M predictions."""

    token_ids: Tensor  # [N]
    position_ids: Tensor  # [N]
    plan: AttentionPlan
    predictors: Tensor  # [M] packed positions whose hidden state predicts
    labels: Tensor  # [M] the tokens to predict
    weights: Tensor  # [M] fp32
    row_of: Tensor  # [M] the row (document) of each prediction

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class HeadShape:
    num_heads: int
    num_kv_heads: int
    device: str = "cpu"


def pack(rows: Sequence[Row], shape: HeadShape, *, share: bool = True) -> PackedInputs:
    """`share=False` computes every row by itself: the slow reference."""
    tree = build_tree([row.token_ids[: _needed(row)] for row in rows], share=share)
    predictors, labels, weights, row_of = _predictions(rows, tree)
    device = shape.device
    return PackedInputs(
        token_ids=torch.tensor([token for s in tree.segments for token in s.token_ids], device=device),
        position_ids=torch.tensor([s.start + i for s in tree.segments for i in range(len(s.token_ids))], device=device),
        plan=_plan(tree, shape),
        predictors=torch.tensor(predictors, dtype=torch.long, device=device),
        labels=torch.tensor(labels, dtype=torch.long, device=device),
        weights=torch.tensor(weights, dtype=torch.float32, device=device),
        row_of=torch.tensor(row_of, dtype=torch.long, device=device),
    )


def _needed(row: Row) -> int:
    """How many tokens of a row predict something or are seen by one that does: nobody asks what follows the last."""
    return next((index for index in range(len(row.token_ids) - 1, 0, -1) if row.loss_weights[index]), 1)


def _predictions(rows: Sequence[Row], tree: Tree) -> tuple[list[int], list[int], list[float], list[int]]:
    """Only the places with a loss weight: the vocabulary head never sees another."""
    predictors: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    row_of: list[int] = []
    for number, (row, leaf) in enumerate(zip(rows, tree.leaves, strict=True)):
        positions = packed_positions(leaf)
        for index in range(1, len(row.token_ids)):
            if row.loss_weights[index]:
                predictors.append(positions[index - 1])
                labels.append(row.token_ids[index])
                weights.append(row.loss_weights[index])
                row_of.append(number)
    return predictors, labels, weights, row_of


def _plan(tree: Tree, shape: HeadShape) -> AttentionPlan:
    return AttentionPlan.build(
        segment_groups(tree),
        [segment.subtree_end for segment in tree.segments for _ in segment.token_ids],
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        max_position=max((s.start + len(s.token_ids) for s in tree.segments), default=0),
        device=shape.device,
    )
