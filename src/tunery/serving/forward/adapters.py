"""LoRA adapters in memory, and their arithmetic for a batch that mixes them.

An adapter is read from PEFT's files. Prefill has long runs of one adapter and multiplies run by run. Decode has single
rows of many adapters: the adapters in use lie side by side in a window, one product shrinks every row for all of them,
a mask keeps each row's own, one product expands.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tunery.domain.errors import InvalidRequest
from tunery.serving.forward.config import ModelConfig
from tunery.serving.forward.linear import FEW_ROWS
from tunery.serving.forward.weights import FUSED, module_sizes

_KEY = re.compile(r"layers\.(\d+)\.((?:self_attn|mlp)\.\w+)\.lora_([AB])\.weight$")


@dataclass(frozen=True)
class Part:
    """One module's matrices, and where its outputs stand in the fused linear. The scaling is part of `b`."""

    member: int  # index within the fused linear
    column: int
    a: torch.Tensor  # [in, R]
    b: torch.Tensor  # [R, out of the module]


@dataclass(frozen=True)
class Adapter:
    rank: int  # the largest of its modules
    parts: dict[tuple[int, str], list[Part]]  # by layer and name of the fused linear

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
    parts: dict[tuple[int, str], list[Part]] = {}
    for (layer, module), both in halves.items():
        if module not in sizes or layer >= config.num_layers or set(both) != {"A", "B"}:
            raise InvalidRequest(f"The adapter does not fit the model: layer {layer}, {module!r}.", param="lora_path")
        _check_shapes(module, both["A"], both["B"], sizes[module])
        fused, member, column = places[module]
        scaled = both["B"] * _scaling(settings, both["A"].shape[0])
        part = Part(member, column, both["A"].t().contiguous().to(dtype), scaled.t().contiguous().to(dtype))
        parts.setdefault((layer, fused), []).append(part)
    return Adapter(max((part.a.shape[1] for group in parts.values() for part in group), default=0), parts)


def _places(config: ModelConfig) -> dict[str, tuple[str, int, int]]:
    """For each module: the fused linear it is in, its index there, its first column."""
    sizes = module_sizes(config)
    places: dict[str, tuple[str, int, int]] = {}
    for fused, members in FUSED.items():
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


@dataclass(frozen=True)
class Segment:
    """Rows [start, end) of a prefill pass that use one adapter."""

    start: int
    end: int
    adapter: Adapter


def add_segments(y: torch.Tensor, x: torch.Tensor, layer: int, fused: str, segments: list[Segment]) -> None:
    """Add each segment's LoRA to the output of a fused linear, in place. x [N, in], y [N, out]."""
    for segment in segments:
        rows = slice(segment.start, segment.end)
        for part in segment.adapter.parts.get((layer, fused), ()):
            y[rows, part.column : part.column + part.b.shape[1]].addmm_(x[rows] @ part.a, part.b)


# A window four times too wide for so many batches on end is made anew: unused places cost as much as used ones.
_PATIENCE = 64


class AdapterWindows:
    """Chooses between a window of one adapter and a window of many, so that a lone stream pays for its own only."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        # One adapter's products with few rows take a fifth of the time in fp32 that they take in bfloat16.
        self._alone = AdapterWindow(config, dtype, held_as=torch.float32)
        self._many = AdapterWindow(config, dtype, held_as=dtype)

    def arrange(self, rows: list[Adapter | None]) -> "AdapterWindow | None":
        """The window that holds every row's adapter; None when no row has one."""
        wanted = list({id(adapter): adapter for adapter in rows if adapter is not None}.values())
        if not wanted:
            return None
        window = self._alone if len(wanted) == 1 and len(rows) <= FEW_ROWS else self._many
        window.arrange(rows, wanted)
        return window

    def drop(self, adapter: Adapter) -> None:
        """Let go of an evicted adapter's memory."""
        self._alone.drop(adapter)
        self._many.drop(adapter)


class AdapterWindow:
    """The adapters that decode uses now, side by side, so that one product serves all of them.

    Columns of a fused linear with m members: adapter 0's m · R, then adapter 1's, and so on. Unused ones are zero.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, *, held_as: torch.dtype) -> None:
        self._config = config
        self._dtype = dtype  # of the activations
        self._held_as = held_as
        self._num_wide = 0  # batches since the window was last used well
        self._places: list[Adapter | None] = []
        self._rank = 0
        self._a: dict[tuple[int, str], torch.Tensor] = {}  # [in, places · m · R]
        self._b: dict[tuple[int, str], torch.Tensor] = {}  # [places · m · R, out]
        self._rows: tuple[int, ...] = ()  # the place of each row; -1: base
        self._masks: dict[int, torch.Tensor | None] = {}  # by number of members: [B, places · m · R], None: all ones
        self._used: set[tuple[int, str]] = set()

    def arrange(self, rows: list[Adapter | None], wanted: list[Adapter]) -> None:
        """Put every row's adapter into the window. `wanted`: the adapters among the rows, each once."""
        self._num_wide = self._num_wide + 1 if len(wanted) * 4 <= len(self._places) else 0
        is_small = len(wanted) > len(self._places) or max(adapter.rank for adapter in wanted) > self._rank
        if is_small or self._num_wide > _PATIENCE:
            self._rebuild(wanted)
        self._place(wanted)
        index = {id(adapter): place for place, adapter in enumerate(self._places) if adapter is not None}
        places = tuple(-1 if adapter is None else index[id(adapter)] for adapter in rows)
        if places != self._rows or not self._masks:
            self._rows = places
            self._masks = {members: self._mask(places, members) for members in {len(m) for m in FUSED.values()}}

    def add(self, y: torch.Tensor, x: torch.Tensor, layer: int, fused: str) -> torch.Tensor:
        """y plus each row's own LoRA. x [B, in], y [B, out] of the fused linear."""
        key = (layer, fused)
        if key not in self._used:
            return y
        shrunk = x.to(self._held_as) @ self._a[key]
        mask = self._masks[len(FUSED[fused])]
        if mask is not None:
            shrunk.mul_(mask)
        if self._held_as is self._dtype:
            return y.addmm_(shrunk, self._b[key])
        return y.add_(shrunk @ self._b[key])

    def drop(self, adapter: Adapter) -> None:
        """Its columns are overwritten when the place is needed."""
        self._places = [None if place is adapter else place for place in self._places]

    def _rebuild(self, wanted: list[Adapter]) -> None:
        self._rank = max(self._rank, *(adapter.rank for adapter in wanted))
        num_places = 1
        while num_places < len(wanted):
            num_places *= 2
        self._places = [None] * num_places
        self._masks, self._used, self._num_wide = {}, set(), 0
        sizes = module_sizes(self._config)
        for fused, members in FUSED.items():
            inner = num_places * len(members) * self._rank
            outer = sum(sizes[member][1] for member in members)
            for layer in range(self._config.num_layers):
                self._a[layer, fused] = torch.zeros(sizes[members[0]][0], inner, dtype=self._held_as)
                self._b[layer, fused] = torch.zeros(inner, outer, dtype=self._held_as)

    def _place(self, wanted: list[Adapter]) -> None:
        present = {id(adapter) for adapter in self._places if adapter is not None}
        needed = {id(adapter) for adapter in wanted}
        for adapter in wanted:
            if id(adapter) not in present:
                place = next(i for i, old in enumerate(self._places) if old is None or id(old) not in needed)
                self._write(place, adapter)
                self._places[place] = adapter

    def _write(self, place: int, adapter: Adapter) -> None:
        for (layer, fused), a in self._a.items():
            width = len(FUSED[fused]) * self._rank
            b = self._b[layer, fused]
            a[:, place * width : (place + 1) * width] = 0
            b[place * width : (place + 1) * width] = 0
            for part in adapter.parts.get((layer, fused), ()):
                first = place * width + part.member * self._rank
                a[:, first : first + part.a.shape[1]] = part.a
                b[first : first + part.a.shape[1], part.column : part.column + part.b.shape[1]] = part.b
                self._used.add((layer, fused))

    def _mask(self, places: tuple[int, ...], members: int) -> torch.Tensor | None:
        if len(self._places) == 1 and -1 not in places:
            return None
        columns = torch.arange(len(self._places))
        own = torch.tensor(places).unsqueeze(1) == columns
        return own.repeat_interleave(members * self._rank, dim=1).to(self._dtype)
