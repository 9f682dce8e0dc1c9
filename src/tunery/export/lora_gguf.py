"""A LoRA adapter as the GGUF file that llama.cpp loads beside its base (`llama-server --lora`): read and written."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from tunery.export.llama_cpp import LAYER_NAMES, architecture_of, as_stored, name_of
from tunery.models.adapter_config import LoraConfig, UnsupportedAdapter
from tunery.models.adapter_files import AdapterFiles, Matrices
from tunery.models.config import ModelConfig
from tunery.models.sources.gguf import Reader, unpermute

LORA_FILE = "lora.gguf"
_TENSOR = re.compile(r"blk\.(\d{1,4})\.(\w+)\.weight\.lora_([ab])")
_DAMAGE = (ValueError, KeyError, IndexError, TypeError, OverflowError)


def read_lora(path: Path, config: ModelConfig) -> AdapterFiles:
    """Raises UnsupportedAdapter."""
    try:
        return _read(Reader(path), config)
    except _DAMAGE as exc:
        if isinstance(exc, UnsupportedAdapter):
            raise
        raise UnsupportedAdapter(f"No adapter can be read from the GGUF file: {exc}") from exc


def _read(reader: Reader, config: ModelConfig) -> AdapterFiles:
    def value(key: str) -> Any:
        return reader.fields[key].contents() if key in reader.fields else None

    if (value("general.type"), value("adapter.type")) != ("adapter", "lora"):
        raise UnsupportedAdapter("The GGUF file holds a model and no LoRA adapter.")
    if value("general.architecture") != architecture_of(config):
        raise UnsupportedAdapter(
            f"The adapter was made for another base model: of the architecture {value('general.architecture')!r}, "
            f"this base is {architecture_of(config)!r}."
        )
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for tensor in reader.tensors:
        module, half = _place(tensor.name)
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        array = array.reshape(tuple(reversed(tensor.shape.tolist())))
        if half == "b" and config.model_type in ("llama", "mistral"):
            heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(module.rpartition(".")[2])
            array = unpermute(array, heads) if heads else array
        halves.setdefault(module, {})[half] = torch.from_numpy(np.array(array, order="C"))
    modules: dict[str, Matrices] = {}
    for module, both in halves.items():
        if len(both) != 2 or any(matrix.ndim != 2 for matrix in both.values()):
            raise UnsupportedAdapter(f"The adapter has no two matrices for {module!r}.")
        modules[module] = Matrices(both["a"], both["b"])
    if not modules:
        raise UnsupportedAdapter("The GGUF file holds no matrices.")
    return AdapterFiles(_config(modules, float(value("adapter.lora.alpha") or 0.0)), modules)


def _place(name: str) -> tuple[str, str]:
    match = _TENSOR.fullmatch(name)
    if match is None or "." not in LAYER_NAMES.get(match[2], ""):
        raise UnsupportedAdapter(f"The adapter changes {name!r}; only LoRA on a layer's modules is built here.")
    return f"model.layers.{int(match[1])}.{LAYER_NAMES[match[2]]}", match[3]


def _config(modules: dict[str, Matrices], alpha: float) -> LoraConfig:
    """llama.cpp scales by alpha / rank, and not at all where alpha is 0."""
    ranks = {module: len(matrices.a) for module, matrices in modules.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {re.escape(module): own for module, own in ranks.items() if own != rank}
    return LoraConfig(
        rank=rank,
        alpha=alpha or float(rank),
        target_modules=tuple(sorted(modules)),
        rank_pattern=others,
        alpha_pattern={} if alpha else {module: float(own) for module, own in others.items()},
    )


def write_lora(adapter: AdapterFiles, config: ModelConfig, path: Path, name: str) -> None:
    """In fp32. The file has one alpha for all modules: what an adapter scales otherwise is part of its matrices."""
    writer = gguf.GGUFWriter(path, architecture_of(config))
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_string("adapter.type", "lora")
    alpha = adapter.config.alpha or 1.0
    writer.add_float32("adapter.lora.alpha", alpha)
    for module, matrices in adapter.modules.items():
        tensor = f"{module}.weight"
        b = matrices.b.float() * (adapter.config.scaling_of(module) * len(matrices.a) / alpha)
        writer.add_tensor(f"{name_of(tensor)}.lora_a", matrices.a.float().contiguous().numpy())
        writer.add_tensor(f"{name_of(tensor)}.lora_b", as_stored(tensor, b.numpy(), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
