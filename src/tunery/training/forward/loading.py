"""Loads the model of a model dir with transformers: no progress bars, nothing from the net."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tunery.training.forward.decoder import UnsupportedModel


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
) -> PreTrainedModel:
    """The causal language model with frozen weights, in eval mode. Only safetensors are read.

    `attention` is a name that transformers knows. Raises UnsupportedModel where weights are missing or of
    another shape: transformers would make them up.
    """
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        attn_implementation=attention,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused here, with their name
    )
    model, found = loaded
    if found["missing_keys"]:
        raise UnsupportedModel(f"The weights have no tensor {min(found['missing_keys'])!r}.")
    for name, in_file, wanted in found["mismatched_keys"]:
        raise UnsupportedModel(f"The tensor {name!r} is {tuple(in_file)}; config.json says {tuple(wanted)}.")
    model.requires_grad_(False)
    torch.nn.Module.to(model, device)
    return model.eval()
