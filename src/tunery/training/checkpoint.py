"""Adapters of finished epochs: `checkpoints/step-N/`, complete or not there, the last three kept."""

import shutil
from pathlib import Path

from tunery.modeling.adapter_config import LoraConfig
from tunery.modeling.adapters import save_adapter
from tunery.training.model import TrainModel

KEEP = 3


def checkpoint_dir(workdir: Path, step: int) -> Path:
    return workdir / "checkpoints" / f"step-{step}"


def save_checkpoint(workdir: Path, step: int, model: TrainModel, lora: LoraConfig, base_model: str) -> Path:
    """Write the adapter as it is. One rename makes it visible. Raises OSError on a full disk."""
    target = checkpoint_dir(workdir, step)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_adapter(part, model.layers, lora, base_model)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if target.exists():  # a resumed job does its last steps again
        shutil.rmtree(target)
    part.rename(target)
    return target


def prune(workdir: Path, steps: list[int]) -> list[int]:
    """Remove all but the newest of the checkpoints; those that stay."""
    kept = sorted(steps)[-KEEP:]
    for step in steps:
        if step not in kept:
            shutil.rmtree(checkpoint_dir(workdir, step), ignore_errors=True)
    return kept
