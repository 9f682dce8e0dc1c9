"""Adapter files in PEFT's format, `adapter_config.json` and `adapter_model.safetensors`: one reader for trainer and
engine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunery.models.adapter_config import WEIGHTS_FILE, LoraConfig, UnsupportedAdapter

_NAME = re.compile(r"base_model\.model\.([\w.]+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class Matrices:
    """Of one module's adapter: its output is scaling · B A x."""

    a: Tensor  # [R, in]
    b: Tensor  # [out, R]


@dataclass(frozen=True)
class AdapterFiles:
    config: LoraConfig
    modules: dict[str, Matrices]  # by full names, see LoraConfig

    def check_fits(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """`sizes`: (in, out) of the model's modules that can have an adapter. Raises UnsupportedAdapter
        unless the adapter changes those alone, all that it targets, and in their size."""
        for name in self.modules:
            if name not in sizes:
                raise UnsupportedAdapter(f"The adapter does not fit the model: it changes {name!r}.")
        for name in sizes:
            if name not in self.modules and self.config.targets(name):
                raise UnsupportedAdapter(f"The adapter has no weights for {name!r}, one of its 'target_modules'.")
        for name, matrices in self.modules.items():
            size = (matrices.a.shape[1], matrices.b.shape[0])
            if size != sizes[name]:
                raise UnsupportedAdapter(
                    f"The adapter was made for another base model: its {name!r} maps {size[0]} to {size[1]}, "
                    f"this base maps {sizes[name][0]} to {sizes[name][1]}."
                )


def read_adapter(folder: Path) -> AdapterFiles:
    """Raises UnsupportedAdapter, saying what is wrong with the files or which part of PEFT is not built here."""
    config = LoraConfig.load(folder)
    try:
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as exc:
        raise UnsupportedAdapter(f"No adapter can be read from {str(folder)!r}: {exc}") from exc
    modules = matrices_of(tensors)
    for name, matrices in modules.items():
        if not config.targets(name):
            raise UnsupportedAdapter(f"The adapter holds weights for {name!r}, none of its 'target_modules'.")
        shapes, rank = (tuple(matrices.a.shape), tuple(matrices.b.shape)), config.rank_of(name)
        if shapes[0][0] != rank or shapes[1][1] != rank:
            raise UnsupportedAdapter(
                f"The adapter's {name!r} is {shapes[0]} and {shapes[1]}; its configuration says rank {rank}."
            )
    return AdapterFiles(config, modules)


def matrices_of(tensors: Mapping[str, Tensor]) -> dict[str, Matrices]:
    """A [R, in] and B [out, R] by module, from tensors by PEFT's names. Raises UnsupportedAdapter."""
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise UnsupportedAdapter(f"The adapter changes {name!r}; only LoRA on linear layers is built here.")
        if not tensor.is_floating_point() or tensor.ndim != 2:
            raise UnsupportedAdapter(f"The adapter's {name!r} is no matrix of plain floats.")
        halves.setdefault(match[1], {})[match[2]] = tensor
    for name, both in halves.items():
        if len(both) != 2:
            raise UnsupportedAdapter(f"The adapter has one of two matrices for {name!r}.")
    return {name: Matrices(both["A"], both["B"]) for name, both in halves.items()}


def write_adapter(folder: Path, adapter: AdapterFiles, base_model: str) -> None:
    """Both files. The folder must exist. `base_model` is where the base's weights came from."""
    save_file(tensors_of(adapter.modules), folder / WEIGHTS_FILE, {"format": "pt"})
    adapter.config.save(folder, base_model)


def tensors_of(modules: Mapping[str, Matrices]) -> dict[str, Tensor]:
    """A [R, in] and B [out, R] by PEFT's names: `base_model.model.<module>.lora_A.weight`."""
    return {
        f"base_model.model.{name}.lora_{half}.weight": matrix.detach().cpu().contiguous()
        for name, matrices in modules.items()
        for half, matrix in (("A", matrices.a), ("B", matrices.b))
    }
