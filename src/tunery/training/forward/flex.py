"""Packed attention on CUDA: the tree of segments as a FlexAttention block mask.

Apart because it imports torch's compiler, which takes seconds.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from tunery.training.forward.attention import AttentionPlan


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def block_mask(plan: AttentionPlan) -> BlockMask:
    """Token j is seen by the tokens i with j <= i < subtree_end[j]."""
    subtree_end = plan.subtree_end

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < subtree_end[key])

    length = subtree_end.numel()
    return create_block_mask(seen, None, None, length, length, device=subtree_end.device.type)


def flex(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float) -> Tensor:
    """query [1, H, N, D], key and value [1, K, N, D] -> [1, N, H, D]."""
    if "flex" not in plan.masks:
        plan.masks["flex"] = block_mask(plan)
    attend = _compiled() if query.is_cuda else flex_attention
    out = attend(query, key, value, block_mask=plan.masks["flex"], scale=scaling, enable_gqa=True)
    return out.transpose(1, 2)
