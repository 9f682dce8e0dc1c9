"""The frequencies of rotary position embeddings."""

import math
from typing import Any

import torch


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
