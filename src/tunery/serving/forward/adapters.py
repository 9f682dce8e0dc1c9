"""LoRA adapters in memory, read from PEFT's files. Their arithmetic is in lora.py."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunery.domain.errors import InvalidRequest
from tunery.models.adapter_config import UnsupportedAdapter
from tunery.models.adapter_files import read_adapter
from tunery.models.architecture import APART
from tunery.models.config import ModelConfig, module_sizes

PRODUCTS, MEMBERS = len(APART), 3  # of a layer, and the modules of one at most


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
    addresses: np.ndarray[Any, Any]  # [layers, PRODUCTS, MEMBERS, 3]: where a and b are, and R; zeros for no part

    @property
    def num_bytes(self) -> int:
        return sum(part.a.nbytes + part.b.nbytes for parts in self.parts.values() for part in parts)


def load_adapter(folder: Path, config: ModelConfig, dtype: torch.dtype) -> Adapter:
    """Raises InvalidRequest, saying what is wrong with the files or which part of PEFT is not built here."""
    places, sizes = _places(config), module_sizes(config)
    names = {f"model.layers.{layer}.{name}": (layer, name) for layer in range(config.num_layers) for name in sizes}
    try:
        files = read_adapter(folder)
        files.check_fits({full: sizes[name] for full, (_, name) in names.items()})
    except UnsupportedAdapter as exc:
        raise InvalidRequest(str(exc), param="lora_path") from exc
    parts: dict[tuple[int, int], list[Part]] = {}
    for full, matrices in files.modules.items():
        layer, name = names[full]
        fused, member, column = places[name]
        scaled = matrices.b.float() * files.config.scaling_of(full)
        part = Part(member, column, matrices.a.contiguous().to(dtype), scaled.t().contiguous().to(dtype))
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
    """[layers, PRODUCTS, MEMBERS, 3], see Adapter."""
    table = no_adapter(config)
    for (layer, fused), group in parts.items():
        for part in group:
            table[layer, fused, part.member] = (part.a.data_ptr(), part.b.data_ptr(), part.a.shape[0])
    return table


def no_adapter(config: ModelConfig) -> np.ndarray[Any, Any]:
    """The addresses of a row that uses the base. [layers, PRODUCTS, MEMBERS, 3], all zero."""
    return np.zeros((config.num_layers, PRODUCTS, MEMBERS, 3), np.int64)


def _places(config: ModelConfig) -> dict[str, tuple[int, int, int]]:
    """For each module: the index of the fused linear it is in, its own there, its first column."""
    sizes = module_sizes(config)
    places: dict[str, tuple[int, int, int]] = {}
    for fused, members in enumerate(config.linears.values()):
        column = 0
        for index, module in enumerate(members):
            places[module] = (fused, index, column)
            column += sizes[module][1]
    return places
