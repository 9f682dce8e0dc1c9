"""Rotary position embeddings: their frequencies, and tables of them so that a step only looks up its rows."""

import math
from typing import Any

import torch

from tunery.models.config import ModelConfig


def rope_frequencies(rope: dict[str, Any], head_dim: int) -> torch.Tensor:
    """[D / 2] fp32, radians a token. rope: as models.config reads it."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (rope["rope_theta"] ** exponents)
    if rope["rope_type"] == "linear":
        return frequencies / rope["factor"]
    if rope["rope_type"] == "llama3":
        return _stretch_llama3(frequencies, rope)
    return frequencies


def _stretch_llama3(frequencies: torch.Tensor, rope: dict[str, Any]) -> torch.Tensor:
    """Llama 3's rule: long waves are slowed by `factor`, short ones stay, those between are blended.

    frequencies [D / 2].
    """
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    waves = 2 * math.pi / frequencies
    blend = (original / waves - low) / (high - low)
    blended = (1 - blend) * frequencies / rope["factor"] + blend * frequencies
    slowed = torch.where(waves > original / low, frequencies / rope["factor"], frequencies)
    return torch.where((waves <= original / low) & (waves >= original / high), blended, slowed)


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
