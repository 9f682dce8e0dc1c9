"""The shape of a LoRA adapter, and PEFT's `adapter_config.json` for it. Needs no torch.

The one reading of that file: what it asks for and is not computed here is refused by name, whoever reads it.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from tunery.models.architecture import ARCHITECTURES

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

LINEAR_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_LINEAR = "all-linear"
"""As `target_modules`: all that the model has, except its head. The trainer writes down which these are."""

# Of any architecture that is described: what it means in a file that does not say of which model it is.
_ALL_LINEAR = tuple(
    dict.fromkeys(
        name.rpartition(".")[2]
        for architecture in ARCHITECTURES.values()
        for members in architecture.linears.values()
        for name in members
    )
)

_READ = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "rank_pattern",
    "alpha_pattern", "use_rslora", "layers_to_transform", "layers_pattern", "bias", "init_lora_weights",
}  # fmt: skip
# What the file may say besides without a change to what the adapter computes. Anything else that is set is refused.
_WITHOUT_EFFECT = {
    "task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "runtime_config", "megatron_core", "qalora_group_size", "eva_config",
}  # fmt: skip
# Ways to begin that leave the base's weights alone. The others (PiSSA, OLoRA, LoftQ, ...) take the adapter's first
# numbers out of the base, so that the adapter beside the base is not what was trained.
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


class UnsupportedAdapter(ValueError):
    """The adapter uses a part of PEFT that is not built here, or its files are damaged; the message says which."""


@dataclass(frozen=True)
class LoraConfig:
    """Modules go by their full names in transformers: `model.layers.0.self_attn.q_proj`."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0  # of the adapter's input, while training
    target_modules: tuple[str, ...] | str = LINEAR_MODULES  # ends of names, or an expression for whole ones; ALL_LINEAR
    exclude_modules: tuple[str, ...] | str = ()  # the same
    layers_to_transform: tuple[int, ...] | None = None  # None: all
    rank_pattern: Mapping[str, int] = field(default_factory=dict)  # by regular expressions for ends of names
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False

    def targets(self, module: str) -> bool:
        """Whether the module gets an adapter."""
        if not _is_among(module, self.target_modules) or _is_among(module, self.exclude_modules):
            return False
        layer = next((int(part) for part in module.split(".") if part.isdigit()), None)
        return self.layers_to_transform is None or layer in self.layers_to_transform

    def rank_of(self, module: str) -> int:
        return int(_by_pattern(self.rank_pattern, module, self.rank))

    def scaling_of(self, module: str) -> float:
        """What the output of the module's adapter is multiplied with."""
        rank = self.rank_of(module)
        return _by_pattern(self.alpha_pattern, module, self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def save(self, folder: Path, base_model: str) -> None:
        """Write adapter_config.json. `base_model` is where the weights came from, for people and for PEFT."""
        document = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": self.target_modules,
            "exclude_modules": self.exclude_modules or None,
            "layers_to_transform": self.layers_to_transform,
            "rank_pattern": self.rank_pattern,
            "alpha_pattern": self.alpha_pattern,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "use_rslora": self.use_rslora,
            "use_dora": False,
            "modules_to_save": None,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "LoraConfig":
        """Read adapter_config.json. Raises UnsupportedAdapter for what is not built here and for a damaged file."""
        try:
            document = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
            _refuse_the_rest_of_peft(document)
            config = _read(document)
            for pattern in (*config.rank_pattern, *config.alpha_pattern):
                _end_matcher(pattern)
            if config.targets("lm_head"):
                raise UnsupportedAdapter("The adapter changes 'lm_head'; only LoRA on a layer's modules is built here.")
        except UnsupportedAdapter:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
            raise UnsupportedAdapter(f"No adapter can be read from {str(folder)!r}: {exc!r}") from exc
        if min(config.rank, *config.rank_pattern.values(), config.rank) < 1:
            raise UnsupportedAdapter("The adapter has a rank below 1.")
        return config


def _refuse_the_rest_of_peft(document: dict[str, Any]) -> None:
    if document.get("peft_type", "LORA") != "LORA":
        raise UnsupportedAdapter(f"The adapter is of the type {document['peft_type']!r}; only LORA is known.")
    if document.get("bias", "none") != "none":
        raise UnsupportedAdapter(
            f"The adapter trains biases ('bias' is {document['bias']!r}), which is not built here."
        )
    if document.get("init_lora_weights") not in _BEGINNINGS:
        raise UnsupportedAdapter(
            f"The adapter changes its base ('init_lora_weights' is {document['init_lora_weights']!r}). Save it as a "
            "plain one: PEFT's save_pretrained does with path_initial_model_for_weight_conversion."
        )
    if document.get("layers_pattern") not in (None, "", [], "layers", ["layers"]):
        raise UnsupportedAdapter(f"The adapter counts {document['layers_pattern']!r}; layers alone are known.")
    for name in sorted(document.keys() - _READ - _WITHOUT_EFFECT):
        if document[name]:
            raise UnsupportedAdapter(f"The adapter uses {name!r}, which is not built here.")


def _read(document: dict[str, Any]) -> LoraConfig:
    targets = document.get("target_modules")
    layers = document.get("layers_to_transform")
    return LoraConfig(
        rank=int(document["r"]),
        alpha=float(document["lora_alpha"]),
        dropout=float(document.get("lora_dropout") or 0.0),
        target_modules=_ALL_LINEAR if targets in (None, ALL_LINEAR) else _modules(targets),
        exclude_modules=_modules(document.get("exclude_modules") or ()),
        layers_to_transform=tuple([layers] if isinstance(layers, int) else layers or ()) or None,
        rank_pattern={str(key): int(rank) for key, rank in (document.get("rank_pattern") or {}).items()},
        alpha_pattern={str(key): float(alpha) for key, alpha in (document.get("alpha_pattern") or {}).items()},
        use_rslora=bool(document.get("use_rslora")),
    )


def _modules(given: Any) -> tuple[str, ...] | str:
    return given if isinstance(given, str) else tuple(sorted(given))


def _is_among(module: str, modules: tuple[str, ...] | str) -> bool:
    if isinstance(modules, str):
        return bool(modules) and _matcher(modules)(module)
    return any(module == end or module.endswith(f".{end}") for end in modules)


def _by_pattern(pattern: Mapping[str, float], module: str, otherwise: float) -> float:
    """Of the first key that fits."""
    return next((value for key, value in pattern.items() if _end_matcher(key)(module)), otherwise)


def _end_matcher(pattern: str) -> Callable[[str], bool]:
    """For the end of a name, from a dot or from its start."""
    return _matcher(rf"(?:.*\.)?(?:{pattern})")


@cache
def _matcher(expression: str) -> Callable[[str], bool]:
    """For whole names. Raises UnsupportedAdapter.

    pydantic's expressions are Rust's, which take linear time: Python's could be made to run for hours.
    """
    from pydantic import StringConstraints, TypeAdapter, ValidationError
    from pydantic_core import SchemaError

    try:
        whole = TypeAdapter(Annotated[str, StringConstraints(pattern=rf"^(?:{expression})$")])
    except SchemaError as exc:
        reason = str(exc).rpartition("error: ")[2].strip()
        raise UnsupportedAdapter(
            f"The expression {expression!r} for names of modules cannot be used: {reason}."
        ) from exc

    def fits(name: str) -> bool:
        try:
            whole.validate_python(name)
        except ValidationError:
            return False
        return True

    return fits
