"""A model's shape, read from its config.json: what the engine serves and the trainer's own decoder trains. What differs
between kinds of models is described in `architecture`. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunery.domain.errors import InvalidRequest
from tunery.models.adapter_config import ALL_LINEAR
from tunery.models.architecture import (
    ACTIVATIONS,
    APART,
    ARCHITECTURES,
    BIASED,
    Activation,
    Architecture,
    LayerKind,
    Linears,
    Norms,
    Scales,
)


class UnsupportedModel(ValueError):
    """The base model needs something that is not computed here; the message names it."""


class NotDescribed(InvalidRequest):
    """No architecture's description covers the model: what transformers has for it may compute it."""


@dataclass(frozen=True)
class Sizes:
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool
    linears: Linears = field(kw_only=True, default_factory=lambda: APART)  # of a model that is not described: Llama's
    is_described: bool = field(kw_only=True, default=True)

    @property
    def body_parameters(self) -> int:
        """Of the linear layers that every token passes."""
        return self.num_layers * sum(num_in * num_out for num_in, num_out in module_sizes(self).values())

    @property
    def head_parameters(self) -> int:
        """Of the vocabulary head, which only trained positions pass."""
        return self.hidden_size * self.vocab_size

    @property
    def num_parameters(self) -> int:
        return self.body_parameters + self.head_parameters * (1 if self.tie_word_embeddings else 2)

    def adapter_parameters(self, rank: int) -> int:
        """Of LoRA on all linear layers: rank × (in + out) of each."""
        return self.num_layers * rank * sum(map(sum, module_sizes(self).values()))

    @property
    def linear_modules(self) -> tuple[str, ...]:
        """The last parts of the names of all linear layers, as an adapter names what it is for."""
        return tuple(name.rpartition(".")[2] for name in module_sizes(self))

    @property
    def lora_targets(self) -> tuple[str, ...] | str:
        """What an adapter on all linear layers is for. Of a model that is not described, only its modules tell."""
        return self.linear_modules if self.is_described else ALL_LINEAR


@dataclass(frozen=True)
class ModelConfig(Sizes):
    model_type: str
    context_length: int
    rms_norm_eps: float
    activation: Activation
    norms: Norms
    norm_offset: float
    scales: Scales
    ropes: tuple[dict[str, Any], ...]  # each: rope_theta, rope_type, rotary_dim, and what that type needs
    layers: tuple[LayerKind, ...]
    biased: frozenset[str]  # linear layers with a bias, by the last part of their names

    @property
    def kv_width(self) -> int:
        """Numbers that one token keeps in one layer: its keys and its values."""
        return 2 * self.num_kv_heads * self.head_dim

    @property
    def attention_scale(self) -> float:
        return self.head_dim**-0.5 if self.scales.attention is None else self.scales.attention


def read_sizes(model_dir: Path) -> Sizes:
    """Of any llama-like model, whether it is computed here or not. Raises InvalidRequest."""
    raw = _read(model_dir)
    try:
        sizes = sizes_of(raw)
    except KeyError as exc:
        raise InvalidRequest(f"The config.json of {str(model_dir)!r} does not say {exc.args[0]!r}.") from exc
    except (TypeError, ArithmeticError) as exc:
        raise InvalidRequest(f"The config.json of {str(model_dir)!r} has no numbers where they belong: {exc}") from exc
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_layers",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "vocab_size",
    ):
        if not isinstance(size := getattr(sizes, name), int) or size < 1:
            raise InvalidRequest(f"The config.json of {str(model_dir)!r} says {size!r} for {name}.")
    return sizes


def _read(model_dir: Path) -> dict[str, Any]:
    try:
        raw = json.loads((model_dir / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise InvalidRequest(f"{str(model_dir)!r} is no folder of a model: {exc}") from exc
    if not isinstance(raw, dict):
        raise InvalidRequest(f"{str(model_dir)!r} is no folder of a model: its config.json is no object")
    return raw


def sizes_of(raw: Mapping[str, Any]) -> Sizes:
    """From a configuration by transformers' names. Raises KeyError for what it does not say."""
    described = ARCHITECTURES.get(str(raw.get("model_type")))
    architecture = described or Architecture()
    raw = {**architecture.assumed, **raw}
    heads = raw["num_attention_heads"]
    return Sizes(
        hidden_size=raw["hidden_size"],
        intermediate_size=raw[architecture.inner],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        vocab_size=raw["vocab_size"],
        tie_word_embeddings=bool(raw.get("tie_word_embeddings")),
        linears=architecture.linears,
        is_described=described is not None,
    )


def read_config(model_dir: Path) -> ModelConfig:
    """Raises NotDescribed for an architecture or a variant without a description, InvalidRequest for what cannot be
    read."""
    raw, name = _read(model_dir), str(model_dir)
    architecture = ARCHITECTURES.get(str(raw.get("model_type")))
    if architecture is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise NotDescribed(f"{name!r} is a {raw.get('model_type')!r} model; what is described here is {known}.")
    if raw.get("quantization_config"):
        raise InvalidRequest(f"The weights of {name!r} are quantised; the engine reads plain ones.")
    raw = {**architecture.assumed, **raw}
    for key, value in architecture.only.items():
        if raw.get(key) not in (value, None):
            raise NotDescribed(f"No description is of a model whose {key!r} is {raw[key]!r}, as that of {name!r}.")
    if (activation := raw.get(architecture.activation, "silu")) not in ACTIVATIONS:
        raise NotDescribed(f"Described are {', '.join(ACTIVATIONS)}; {name!r} asks for {activation!r}.")
    try:
        return _config(raw, architecture)
    except KeyError as exc:
        raise InvalidRequest(f"The config.json of {name!r} does not say {exc.args[0]!r}.") from exc


def is_described(model_dir: Path) -> bool:
    """Whether our own forms of it compute the model."""
    try:
        read_config(model_dir)
    except InvalidRequest:
        return False
    return True


def _config(raw: dict[str, Any], architecture: Architecture) -> ModelConfig:
    for key in architecture.required:
        raw[key]
    sizes = sizes_of(raw)
    ropes = [_complete(rope, raw, sizes.head_dim) for rope in architecture.ropes(raw)]
    context: int = min([raw["max_position_embeddings"], *filter(None, map(_reach, ropes))])
    return ModelConfig(
        **vars(sizes),
        model_type=raw["model_type"],
        context_length=context,
        rms_norm_eps=raw["rms_norm_eps"],
        activation=ACTIVATIONS[raw.get(architecture.activation, "silu")],
        norms=architecture.norms,
        norm_offset=architecture.norm_offset,
        scales=architecture.scales(raw),
        ropes=tuple(ropes),
        layers=tuple(_within(kind, context) for kind in architecture.layers(raw, sizes.num_layers)),
        biased=frozenset(module for key in architecture.biases if raw.get(key) for module in BIASED[key]),
    )


def _within(kind: LayerKind, context: int) -> LayerKind:
    """A window that the context does not fill is none."""
    return LayerKind(kind.rope, None if kind.window is None or kind.window >= context else kind.window)


# What each type of rotary embedding needs to know.
_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": ("short_factor",),
}


def _complete(given: dict[str, Any], raw: dict[str, Any], head_dim: int) -> dict[str, Any]:
    """The rope as models.rope reads it. Raises InvalidRequest, KeyError."""
    rope = dict(given)
    kind = rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _ROPE_KEYS:
        raise NotDescribed(f"Rotary embeddings of type {kind!r} are not described.")
    if any(isinstance(value, dict) for value in rope.values()):
        raise NotDescribed("Other rotary embeddings for other layers of this model are not described.")
    for key in _ROPE_KEYS[kind]:
        rope[key]
    rope["rotary_dim"] = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    if kind in ("llama3", "yarn", "longrope"):
        own = rope.get("original_max_position_embeddings", raw["max_position_embeddings"])
        rope["original_max_position_embeddings"] = raw.get("original_max_position_embeddings", own)
        if rope.get("factor") is None:
            rope["factor"] = raw["max_position_embeddings"] / rope["original_max_position_embeddings"]
    return rope


def _reach(rope: dict[str, Any]) -> int | None:
    """How long a text it is for; None: any. LongRoPE turns longer texts by other frequencies from their first token on:
    keys that are kept from a prompt, or shared with one, would be those of another model."""
    return rope["original_max_position_embeddings"] if rope["rope_type"] == "longrope" else None


def module_sizes(config: Sizes) -> dict[str, tuple[int, int]]:
    """(in, out) of each module of a layer."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes = {
        "qkv": (hidden, (query, key, key)),
        "o": (query, (hidden,)),
        "gate_up": (hidden, (inner, inner)),
        "down": (inner, (hidden,)),
    }
    sizes: dict[str, tuple[int, int]] = {}
    for product, members in config.linears.items():
        num_in, parts = shapes[product]
        widths = parts if len(members) == len(parts) else (sum(parts),)
        sizes |= {member: (num_in, width) for member, width in zip(members, widths, strict=True)}
    return sizes
