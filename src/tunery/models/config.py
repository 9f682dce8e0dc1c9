"""The shape of a Llama-like model, read from its config.json: what the engine serves and the trainer's own decoder
trains. Imports no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery.domain.errors import InvalidRequest

ARCHITECTURES = {"llama", "mistral", "qwen2", "qwen3"}


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


@dataclass(frozen=True)
class ModelConfig(Sizes):
    model_type: str
    context_length: int
    rms_norm_eps: float
    rope: dict[str, Any]  # rope_theta, rope_type and what that type needs
    has_qk_norm: bool
    biased: frozenset[str]  # linear layers with a bias, by the last part of their names
    is_windowed: bool  # the context is that of a sliding window, up to whose length both attentions are the same

    @property
    def kv_width(self) -> int:
        """Numbers that one token keeps in one layer: its keys and its values."""
        return 2 * self.num_kv_heads * self.head_dim


def read_sizes(model_dir: Path) -> Sizes:
    """Of any llama-like model, whether it is computed here or not. Raises InvalidRequest."""
    raw = _read(model_dir)
    try:
        return sizes_of(raw)
    except KeyError as exc:
        raise InvalidRequest(f"The config.json of {str(model_dir)!r} does not say {exc.args[0]!r}.") from exc


def _read(model_dir: Path) -> dict[str, Any]:
    try:
        return json.loads((model_dir / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise InvalidRequest(f"{str(model_dir)!r} is no folder of a model: {exc}") from exc


def sizes_of(raw: Mapping[str, Any]) -> Sizes:
    """From a configuration by transformers' names. Raises KeyError for what it does not say."""
    heads = raw["num_attention_heads"]
    return Sizes(
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        vocab_size=raw["vocab_size"],
        tie_word_embeddings=bool(raw.get("tie_word_embeddings")),
    )


def read_config(model_dir: Path) -> ModelConfig:
    """Raises InvalidRequest for an architecture or a variant that is not computed here."""
    raw = _read(model_dir)
    kind = raw.get("model_type")
    if kind not in ARCHITECTURES:
        raise InvalidRequest(
            f"The engine serves {', '.join(sorted(ARCHITECTURES))}; {str(model_dir)!r} is a {kind!r} model."
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise InvalidRequest(f"The engine computes SiLU; {str(model_dir)!r} asks for {raw['hidden_act']!r}.")
    if raw.get("quantization_config"):
        raise InvalidRequest(f"The weights of {str(model_dir)!r} are quantised; the engine reads plain ones.")
    try:
        return _config(raw, kind)
    except KeyError as exc:
        raise InvalidRequest(f"The config.json of {str(model_dir)!r} does not say {exc.args[0]!r}.") from exc


def _config(raw: dict[str, Any], kind: str) -> ModelConfig:
    context = raw["max_position_embeddings"]
    window = raw.get("sliding_window", 4096 if kind == "mistral" else None)  # what transformers assumes
    is_windowed = bool(window) and raw.get("use_sliding_window", kind == "mistral")
    if kind != "llama":
        raw["num_key_value_heads"]  # what transformers assumes without it is another number
    return ModelConfig(
        **vars(sizes_of(raw)),
        model_type=kind,
        context_length=min(context, window) if is_windowed else context,
        rms_norm_eps=raw["rms_norm_eps"],
        rope=_rope(raw),
        has_qk_norm=kind == "qwen3",
        biased=_biased(raw, kind),
        is_windowed=is_windowed,
    )


def _biased(raw: dict[str, Any], kind: str) -> frozenset[str]:
    queries, attention, mlp = {"q_proj", "k_proj", "v_proj"}, set[str](), set[str]()
    if kind in ("llama", "qwen3") and raw.get("attention_bias"):
        attention = queries | {"o_proj"}
    if kind == "llama" and raw.get("mlp_bias"):
        mlp = {"gate_proj", "up_proj", "down_proj"}
    return frozenset(queries if kind == "qwen2" else attention | mlp)


# What each type of rotary embedding needs to know.
_ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


def _rope(raw: dict[str, Any]) -> dict[str, Any]:
    """Both spellings: `rope_parameters` (transformers 5), `rope_theta` with `rope_scaling` (before, and preferred)."""
    rope = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    rope.setdefault("rope_theta", raw.get("rope_theta", 10000.0))
    kind = rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _ROPE_KEYS:
        raise InvalidRequest(f"The engine does not compute rotary embeddings of type {kind!r}.")
    factor = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if (factor or 1) != 1 or any(isinstance(value, dict) for value in rope.values()):
        raise InvalidRequest("The engine rotates whole heads, in all layers alike.")
    for key in _ROPE_KEYS[kind]:
        rope[key]
    if kind == "llama3":
        own = rope.get("original_max_position_embeddings", raw["max_position_embeddings"])
        rope["original_max_position_embeddings"] = raw.get("original_max_position_embeddings", own)
    return rope


def module_sizes(config: Sizes) -> dict[str, tuple[int, int]]:
    """(in, out) of each module of a layer."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "self_attn.q_proj": (hidden, query),
        "self_attn.k_proj": (hidden, key),
        "self_attn.v_proj": (hidden, key),
        "self_attn.o_proj": (query, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
