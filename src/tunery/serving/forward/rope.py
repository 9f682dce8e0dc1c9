"""Rotary position embeddings as two tables, so that a step only looks up its rows."""

import torch

from tunery.models.config import ModelConfig
from tunery.models.rope import rope_frequencies


def rope_tables(config: ModelConfig, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and signed sin, each [context_length, 1, D].

    rotate_half(x) · sin equals roll(x, D/2) · signed sin, the first half of which is negated: one operation less.
    """
    frequencies = rope_frequencies(config.rope, config.head_dim)
    angles = torch.outer(torch.arange(config.context_length, dtype=torch.float32), frequencies)
    cos, sin = angles.cos(), angles.sin()
    cos_table = torch.cat((cos, cos), dim=-1)
    sin_table = torch.cat((-sin, sin), dim=-1)
    return cos_table.to(dtype).unsqueeze(1), sin_table.to(dtype).unsqueeze(1)


def rotate_(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """In place. heads [N, H, D]; cos and sin [N, 1, D]."""
    turned = heads.roll(heads.shape[-1] // 2, -1)
    heads.mul_(cos).addcmul_(turned, sin)
