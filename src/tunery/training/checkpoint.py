"""Adapters of finished epochs, each complete or not there, the last three kept.

Apart because the loop says when and this file how.
"""

import shutil
from pathlib import Path

from tunery import atomic
from tunery.models.adapter_config import LoraConfig
from tunery.models.adapter_files import AdapterFiles, write_adapter
from tunery.training.forward.lora import matrices_of
from tunery.training.forward.model import TrainModel
from tunery.training.protocol import KEEP, Workdir


def save_checkpoint(workdir: Workdir, step: int, model: TrainModel, lora: LoraConfig, base_model: str) -> Path:
    """Write the adapter as it is. One rename makes it visible. Raises OSError on a full disk."""
    target = workdir.checkpoint(step)  # it is there already when a resumed job does its last steps again
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic.remove_parts(target.parent)
    with atomic.replacing_folder(target) as part:
        write_adapter(part, AdapterFiles(lora, matrices_of(model.layers)), base_model)
    return target


def prune(workdir: Workdir, steps: list[int]) -> list[int]:
    """Remove all but the newest of the checkpoints; those that stay."""
    kept = sorted(steps)[-KEEP:]
    for step in steps:
        if step not in kept:
            shutil.rmtree(workdir.checkpoint(step), ignore_errors=True)
    return kept
