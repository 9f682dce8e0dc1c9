"""LoRA adapters in memory, read from PEFT's files. Their arithmetic is in lora.py."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tunery.domain.errors import InvalidRequest
from tunery.models.adapter_config import UnsupportedAdapter
from tunery.models.adapter_files import read_adapter
from tunery.models.config import ModelConfig, module_sizes

MEMBERS = 3  # modules of a product at most


@dataclass(frozen=True)
class Place:
    """Of a module among the products of a pass."""

    layer: int
    fused: int  # index of the product
    member: int  # its own there
    column: int  # where its outputs begin
    size: tuple[int, int]  # in, out


@dataclass(frozen=True)
class Places:
    """Where adapters may stand in a model."""

    of: dict[str, Place]  # by the modules' full names
    num_layers: int
    widths: tuple[tuple[int, ...], ...]  # of each product's members

    @property
    def columns(self) -> list[np.ndarray[Any, Any]]:
        """For each product [members + 1]: where its members' outputs begin, and their end."""
        return [np.cumsum([0, *widths]) for widths in self.widths]

    @property
    def no_adapter(self) -> np.ndarray[Any, Any]:
        """[layers, products, MEMBERS, 3], see Adapter: of a row that uses the base, all zero."""
        return np.zeros((self.num_layers, len(self.widths), MEMBERS, 3), np.int64)


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
    addresses: np.ndarray[Any, Any]  # [layers, products, MEMBERS, 3]: where a and b are, and R; zeros for no part

    @property
    def num_bytes(self) -> int:
        return sum(part.a.nbytes + part.b.nbytes for parts in self.parts.values() for part in parts)


def load_adapter(folder: Path, places: Places, dtype: torch.dtype) -> Adapter:
    """Raises InvalidRequest, saying what is wrong with the files or which part of PEFT is not built here."""
    try:
        files = read_adapter(folder)
        files.check_fits({name: place.size for name, place in places.of.items()})
    except UnsupportedAdapter as exc:
        raise InvalidRequest(str(exc), param="lora_path") from exc
    parts: dict[tuple[int, int], list[Part]] = {}
    for name, matrices in files.modules.items():
        place = places.of[name]
        scaled = matrices.b.float() * files.config.scaling_of(name)
        part = Part(place.member, place.column, matrices.a.contiguous().to(dtype), scaled.t().contiguous().to(dtype))
        parts.setdefault((place.layer, place.fused), []).append(part)
    parts = _in_one_block(parts)
    return Adapter(parts, _addresses(parts, places))


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


def _addresses(parts: dict[tuple[int, int], list[Part]], places: Places) -> np.ndarray[Any, Any]:
    """[layers, products, MEMBERS, 3], see Adapter."""
    table = places.no_adapter
    for (layer, fused), group in parts.items():
        for part in group:
            table[layer, fused, part.member] = (part.a.data_ptr(), part.b.data_ptr(), part.a.shape[0])
    return table


def places_of(config: ModelConfig) -> Places:
    """In the decoder of the described architectures."""
    sizes, places = module_sizes(config), dict[str, Place]()
    for fused, members in enumerate(config.linears.values()):
        column = 0
        for index, module in enumerate(members):
            for layer in range(config.num_layers):
                places[f"model.layers.{layer}.{module}"] = Place(layer, fused, index, column, sizes[module])
            column += sizes[module][1]
    widths = tuple(tuple(sizes[member][1] for member in members) for members in config.linears.values())
    return Places(places, config.num_layers, widths)
