"""All that a job needs to go on after its process died: one safetensors file, replaced whole.

Holds the adapter, the optimizer's moments, and in its header the step and the progress so far. The order of the data
and the random numbers of a step follow from the seed and the step, so they need no room here.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tunery import atomic
from tunery.models import adapter_files
from tunery.training.forward.lora import matrices_of, set_matrices
from tunery.training.forward.model import TrainModel
from tunery.training.optimizer import AdamW
from tunery.training.protocol import write_saved_step

STATE_FILE = "state.safetensors"
MEASURED_FILE = "measured.json"


@dataclass
class Progress:
    """What has happened so far."""

    step: int = 0  # optimizer steps done
    elapsed_s: float = 0.0
    max_tokens: int = 0  # of a micro-batch, after halvings; 0: not decided yet
    skipped_in_row: int = 0
    valid_losses: list[tuple[int, float]] = field(default_factory=list)  # (step, full validation loss) of epoch ends
    checkpoints: list[int] = field(default_factory=list)  # steps whose folders are kept
    is_advised: bool = False  # early stopping was advised already
    last_steps: list[dict[str, Any]] = field(default_factory=list)  # what was said of them: a dead worker heard no end

    @classmethod
    def of(cls, saved: dict[str, Any]) -> "Progress":
        """Passes over what another version saved beside it."""
        known = {item.name: saved[item.name] for item in fields(cls) if item.name in saved}
        progress = cls(**known)
        progress.valid_losses = [(step, loss) for step, loss in progress.valid_losses]
        return progress


def save_state(folder: Path, model: TrainModel, optimizer: AdamW, progress: Progress) -> None:
    """Replace the state. A crash at any line leaves the old one or the new one. Raises OSError on a full disk."""
    folder.mkdir(exist_ok=True)
    tensors = adapter_files.tensors_of(matrices_of(model.layers))
    for index, parameter in enumerate(model.parameters()):
        for name, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{index}.{name}"] = value.detach().cpu()
    header = {"progress": json.dumps(asdict(progress)), "product_dtype": _name(model.matmul_dtype)}
    atomic.remove_parts(folder)
    with atomic.replacing(folder / STATE_FILE) as part:
        save_file(tensors, part, header)
    write_saved_step(folder, progress.step)


def load_state(folder: Path, model: TrainModel, optimizer: AdamW) -> Progress | None:
    """Put a saved state back; None when there is none. Raises UnsupportedAdapter when it is another model's."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    for index, parameter in enumerate(model.parameters()):
        prefix = f"optimizer.{index}."
        own = {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
        if own:
            optimizer.state[parameter] = {name: value.to(parameter.device) for name, value in own.items()}
    set_matrices(model.layers, adapter_files.matrices_of(tensors))
    return Progress.of(progress)


@dataclass(frozen=True)
class Measured:
    """What was measured on the machine when the job began. Others would bend its loss curve, so it keeps them."""

    product_dtype: torch.dtype | None  # what matrices are multiplied in; an old state does not tell
    max_tokens: int  # of a micro-batch


def save_measured(folder: Path, measured: Measured) -> None:
    """Before the first step: a job may die before its first state."""
    folder.mkdir(exist_ok=True)
    assert measured.product_dtype is not None
    document = {"product_dtype": _name(measured.product_dtype), "max_tokens": measured.max_tokens}
    atomic.write_text(folder / MEASURED_FILE, json.dumps(document) + "\n")


def load_measured(folder: Path) -> Measured | None:
    """Of the newest state, which knows of halvings, else as it was before the first step; None for a job that begins.
    Raises ValueError when the file is damaged."""
    if (folder / STATE_FILE).exists():
        with safe_open(folder / STATE_FILE, framework="pt") as file:
            header = file.metadata()
        document = {**json.loads(header["progress"]), "product_dtype": header.get("product_dtype")}
    elif (folder / MEASURED_FILE).exists():
        document = json.loads((folder / MEASURED_FILE).read_text("utf-8"))
    else:
        return None
    name = document["product_dtype"]
    return Measured(getattr(torch, name) if name else None, document["max_tokens"])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
