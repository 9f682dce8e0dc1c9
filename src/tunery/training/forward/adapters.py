"""Adapter files in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunery.models.adapter_config import WEIGHTS_FILE, LoraConfig, UnsupportedAdapter
from tunery.training.forward.lora import LoraLinear

PREFIX = "base_model.model."


def save_adapter(folder: Path, layers: Mapping[str, LoraLinear], config: LoraConfig, base_model: str) -> None:
    """Write the fp32 masters, so that a later job goes on without a loss. The folder must exist."""
    save_file(adapter_tensors(layers), folder / WEIGHTS_FILE, {"format": "pt"})
    config.save(folder, base_model)


def adapter_tensors(layers: Mapping[str, LoraLinear]) -> dict[str, Tensor]:
    """PEFT's names: `base_model.model.<module>.lora_A.weight`."""
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A.detach().cpu().contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B.detach().cpu().contiguous()
    return tensors


def load_adapter(folder: Path, layers: Mapping[str, LoraLinear]) -> None:
    """Copy the weights of an adapter file into attached layers of the same shape. Raises UnsupportedAdapter."""
    set_adapter_tensors(layers, load_file(folder / WEIGHTS_FILE))


@torch.no_grad()
def set_adapter_tensors(layers: Mapping[str, LoraLinear], tensors: Mapping[str, Tensor]) -> None:
    """Copy A [R, in] and B [out, R] of each layer, by PEFT's names. Raises UnsupportedAdapter."""
    expected = {f"{PREFIX}{name}.lora_{half}.weight" for name in layers for half in "AB"}
    different = sorted(expected.symmetric_difference(tensors))
    if different:
        raise UnsupportedAdapter(f"The adapter does not fit the model: {different[0]!r} stands on one side only.")
    for name, layer in layers.items():
        for half, parameter in (("A", layer.lora_A), ("B", layer.lora_B)):
            source = tensors[f"{PREFIX}{name}.lora_{half}.weight"]
            if source.shape != parameter.shape:
                raise UnsupportedAdapter(
                    f"The adapter does not fit the model: {name}.lora_{half} is {tuple(source.shape)}, "
                    f"the model wants {tuple(parameter.shape)}."
                )
            parameter.copy_(source)
        layer.refresh()
