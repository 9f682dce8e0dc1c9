"""The shape of a LoRA adapter, and PEFT's `adapter_config.json` for it. Needs no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

LINEAR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class UnsupportedAdapter(ValueError):
    """The adapter uses a part of PEFT that is not built here; the message names it."""


@dataclass(frozen=True)
class LoraConfig:
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0  # of the adapter's input, while training
    target_modules: tuple[str, ...] = LINEAR_MODULES  # the last part of the modules' names

    @property
    def scaling(self) -> float:
        """What the adapter's output is multiplied with."""
        return self.alpha / self.rank

    def save(self, folder: Path, base_model: str) -> None:
        """Write adapter_config.json. `base_model` is where the weights came from, for people and for PEFT."""
        document = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": list(self.target_modules),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "use_rslora": False,
            "use_dora": False,
            "modules_to_save": None,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "LoraConfig":
        """Read adapter_config.json. Raises UnsupportedAdapter for variants of LoRA that are not built here."""
        document: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        if document.get("peft_type") != "LORA":
            raise UnsupportedAdapter(f"The adapter is of the type {document.get('peft_type')!r}; only LORA is known.")
        for name in (
            "use_rslora",
            "use_dora",
            "modules_to_save",
            "rank_pattern",
            "alpha_pattern",
            "layers_to_transform",
        ):
            if document.get(name):
                raise UnsupportedAdapter(f"The adapter uses {name!r}, which is not built here.")
        if document.get("bias", "none") != "none":
            raise UnsupportedAdapter("The adapter trains biases, which is not built here.")
        modules = document["target_modules"]
        return cls(
            rank=document["r"],
            alpha=document["lora_alpha"],
            dropout=document.get("lora_dropout", 0.0),
            target_modules=LINEAR_MODULES if modules == "all-linear" else tuple(sorted(modules)),
        )
