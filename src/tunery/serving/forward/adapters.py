"""LoRA adapters in memory, read from PEFT's files. Their arithmetic is in lora.py."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tunery.domain.errors import InvalidRequest
from tunery.models.config import ModelConfig, module_sizes
from tunery.serving.forward.weights import FUSED

_KEY = re.compile(r"layers\.(\d+)\.((?:self_attn|mlp)\.\w+)\.lora_([AB])\.weight$")


MEMBERS = max(len(members) for members in FUSED.values())


@dataclass(frozen=True)
class Part:
    """One module's matrices, and where its outputs stand in the fused linear. The scaling is part of `b`."""

    member: int  # index within the fused linear
    column: int
    a: torch.Tensor  # [R, in]
    b: torch.Tensor  # [R, out of the module]


@dataclass(frozen=True)
class Adapter:
    parts: dict[tuple[int, int], list[Part]]  # by layer and index of the fused linear
    addresses: np.ndarray[Any, Any]  # [layers, len(FUSED), MEMBERS, 3]: where a and b are, and R; zeros for no part

    @property
    def num_bytes(self) -> int:
        return sum(part.a.nbytes + part.b.nbytes for parts in self.parts.values() for part in parts)


def read_adapter(folder: Path, config: ModelConfig, dtype: torch.dtype) -> Adapter:
    """Raises InvalidRequest, saying what is wrong with the files or which part of PEFT is not served."""
    settings, tensors = _read_files(folder)
    halves: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = _KEY.search(name)
        if match is None:
            raise InvalidRequest(f"The adapter changes {name!r}; only LoRA on linear layers is served.")
        halves.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor.float()
    places, sizes = _places(config), module_sizes(config)
    parts: dict[tuple[int, int], list[Part]] = {}
    for (layer, module), both in halves.items():
        if module not in sizes or layer >= config.num_layers or set(both) != {"A", "B"}:
            raise InvalidRequest(f"The adapter does not fit the model: layer {layer}, {module!r}.", param="lora_path")
        _check_shapes(module, both["A"], both["B"], sizes[module])
        fused, member, column = places[module]
        scaled = both["B"] * _scaling(settings, both["A"].shape[0])
        part = Part(member, column, both["A"].contiguous().to(dtype), scaled.t().contiguous().to(dtype))
        parts.setdefault((layer, fused), []).append(part)
    parts = _in_one_block(parts)
    return Adapter(parts, _addresses(parts, config))


def _in_one_block(parts: dict[tuple[int, int], list[Part]]) -> dict[tuple[int, int], list[Part]]:
    """The same, in memory one behind the other as a pass reads them: scattered, reading takes a quarter longer."""
    ordered = {key: sorted(parts[key], key=lambda part: part.member) for key in sorted(parts)}
    matrices = [matrix for group in ordered.values() for part in group for matrix in (part.a, part.b)]
    if not matrices:
        return {}
    block = torch.cat([matrix.flatten() for matrix in matrices])
    pieces = iter(block.split([matrix.numel() for matrix in matrices]))
    return {
        key: [replace(part, a=next(pieces).view_as(part.a), b=next(pieces).view_as(part.b)) for part in group]
        for key, group in ordered.items()
    }


def _addresses(parts: dict[tuple[int, int], list[Part]], config: ModelConfig) -> np.ndarray[Any, Any]:
    table = no_adapter(config)
    for (layer, fused), group in parts.items():
        for part in group:
            table[layer, fused, part.member] = (part.a.data_ptr(), part.b.data_ptr(), part.a.shape[0])
    return table


def no_adapter(config: ModelConfig) -> np.ndarray[Any, Any]:
    """The addresses of a row that uses the base."""
    return np.zeros((config.num_layers, len(FUSED), MEMBERS, 3), np.int64)


def _places(config: ModelConfig) -> dict[str, tuple[int, int, int]]:
    """For each module: the index of the fused linear it is in, its own there, its first column."""
    sizes = module_sizes(config)
    places: dict[str, tuple[int, int, int]] = {}
    for fused, members in enumerate(FUSED.values()):
        column = 0
        for index, module in enumerate(members):
            places[module] = (fused, index, column)
            column += sizes[module][1]
    return places


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError) as exc:
        raise InvalidRequest(f"No adapter can be read from {str(folder)!r}: {exc}", param="lora_path") from exc
    if settings.get("peft_type", "LORA") != "LORA":
        raise InvalidRequest(f"Only LoRA adapters are served, not {settings['peft_type']!r}.", param="lora_path")
    for unserved in ("use_dora", "lora_bias", "modules_to_save", "alpha_pattern", "fan_in_fan_out"):
        if settings.get(unserved):
            raise InvalidRequest(f"Adapters with {unserved!r} are not served.", param="lora_path")
    return settings, tensors


def _check_shapes(module: str, a: torch.Tensor, b: torch.Tensor, size: tuple[int, int]) -> None:
    if (a.shape[1], b.shape[0]) != size or a.shape[0] != b.shape[1]:
        raise InvalidRequest(
            f"The adapter was made for another base model: its {module!r} is {tuple(a.shape)} and {tuple(b.shape)}, "
            f"this base maps {size[0]} to {size[1]}.",
            param="lora_path",
        )


def _scaling(settings: dict[str, Any], rank: int) -> float:
    return settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
