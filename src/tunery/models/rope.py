"""Rotary position embeddings: their frequencies, and tables of them so that a step only looks up its rows."""

import math
from typing import Any

import torch

Rope = dict[str, Any]
"""As models.config reads it."""


def rope_frequencies(rope: Rope) -> torch.Tensor:
    """[rotary_dim / 2] fp32, radians a token."""
    width = rope["rotary_dim"]
    exponents = torch.arange(0, width, 2, dtype=torch.int64).float() / width
    frequencies = 1.0 / (rope["rope_theta"] ** exponents)
    if rope["rope_type"] == "linear":
        return frequencies / rope["factor"]
    if rope["rope_type"] == "llama3":
        return _stretch_llama3(frequencies, rope)
    if rope["rope_type"] == "yarn":
        return _stretch_yarn(frequencies, rope)
    if rope["rope_type"] == "longrope":
        return frequencies / torch.tensor(rope["short_factor"], dtype=torch.float32)
    return frequencies


def rope_scale(rope: Rope) -> float:
    """What cosines and sines are multiplied with."""
    if rope["rope_type"] not in ("yarn", "longrope"):
        return 1.0
    if rope.get("attention_factor") is not None:
        return rope["attention_factor"]
    factor, original = rope["factor"], rope["original_max_position_embeddings"]
    if rope["rope_type"] == "longrope":
        return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    above, below = rope.get("mscale"), rope.get("mscale_all_dim")
    return _yarn_scale(factor, above) / _yarn_scale(factor, below) if above and below else _yarn_scale(factor, 1.0)


def _yarn_scale(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _stretch_llama3(frequencies: torch.Tensor, rope: Rope) -> torch.Tensor:
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


def _stretch_yarn(frequencies: torch.Tensor, rope: Rope) -> torch.Tensor:
    """YaRN's rule: the first frequencies, which turn often within the original context, stay; the last are slowed by
    `factor`; a ramp lies between.

    frequencies [D / 2].
    """
    width, original = rope["rotary_dim"], rope["original_max_position_embeddings"]

    def place(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope["rope_theta"]))

    first, last = place(rope.get("beta_fast") or 32), place(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    places = torch.arange(width // 2, dtype=torch.float32)
    slowed = ((places - first) / ((last - first) or 0.001)).clamp(0, 1)
    return frequencies / rope["factor"] * slowed + frequencies * (1 - slowed)


def rope_tables(rope: Rope | None, context_length: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and signed sin, each [context_length, 1, rotary_dim]; of no width without a rope.

    rotate_half(x) · sin equals roll(x, D/2) · signed sin, the first half of which is negated: one operation less.
    """
    if rope is None:
        return torch.empty(context_length, 1, 0, dtype=dtype), torch.empty(context_length, 1, 0, dtype=dtype)
    angles = torch.outer(torch.arange(context_length, dtype=torch.float32), rope_frequencies(rope))
    cos, sin = angles.cos() * rope_scale(rope), angles.sin() * rope_scale(rope)
    cos_table = torch.cat((cos, cos), dim=-1)
    sin_table = torch.cat((-sin, sin), dim=-1)
    return cos_table.to(dtype).unsqueeze(1), sin_table.to(dtype).unsqueeze(1)
