"""The kinds of models that are computed here, each as a description of what is not Llama's. Imports no torch.

Engine and trainer compute one decoder with these differences and never ask which kind a model is: a new kind is an
entry of ARCHITECTURES, and code where it does what none before it did. Keys are those of config.json.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tunery.domain.errors import InvalidRequest

Raw = Mapping[str, Any]
"""A config.json."""

Linears = Mapping[str, tuple[str, ...]]
"""The products of a layer, `qkv`, `o`, `gate_up` and `down`, and the modules that each is made of: several, or one that
holds all of them in a weight of its own. An adapter stands beside a module, and is named after it."""

APART: Linears = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}

Norms = Mapping[str, str]
"""A layer's norms by what they stand before or behind: the fields of weight_files.LayerNorms."""

FUSED: Linears = {**APART, "qkv": ("self_attn.qkv_proj",), "gate_up": ("mlp.gate_up_proj",)}
MLP_SHARED: Linears = {**APART, "gate_up": ("shared_mlp.input_linear",), "down": ("shared_mlp.output_linear",)}

PLAIN_NORMS: Norms = {"before_attention": "input_layernorm", "before_mlp": "post_attention_layernorm"}
NORMS_AROUND: Norms = {
    "before_attention": "input_layernorm",
    "after_attention": "post_attention_layernorm",
    "before_mlp": "pre_feedforward_layernorm",
    "after_mlp": "post_feedforward_layernorm",
}
HEAD_NORMS: Norms = {"query": "self_attn.q_norm", "key": "self_attn.k_norm"}

Activation = Literal["silu", "gelu_tanh"]
ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class Scales:
    """What is multiplied with a constant."""

    attention: float | None = None  # the scores; None: with 1 / √D
    embedding: float = 1.0
    residual: float = 1.0  # what attention and MLP add to the residual stream
    logits: float = 1.0


@dataclass(frozen=True)
class LayerKind:
    """What attention does in one layer and not in another."""

    rope: int | None = 0  # which of the model's rotary embeddings turns queries and keys; None: none does
    window: int | None = None  # positions that a token sees, its own included; None: all before it


@dataclass(frozen=True)
class Architecture:
    linears: Linears = field(default_factory=lambda: APART)
    norms: Norms = field(default_factory=lambda: PLAIN_NORMS)
    norm_offset: float = 0.0  # added to a norm's weights as the files hold them
    biases: tuple[str, ...] = ()  # keys that give modules a bias, see BIASED
    activation: str = "hidden_act"  # the key
    inner: str = "intermediate_size"  # the key
    ropes: Callable[[Raw], list[dict[str, Any]]] = lambda raw: [_rope_of(raw)]
    layers: Callable[[Raw, int], list[LayerKind]] = lambda raw, count: [LayerKind()] * count
    scales: Callable[[Raw], Scales] = lambda raw: Scales()
    assumed: Raw = field(default_factory=dict)  # by transformers, where config.json does not say
    required: tuple[str, ...] = ("num_key_value_heads",)  # without it transformers assumes what is not known here
    only: Raw = field(default_factory=dict)  # keys of which no other value is computed here; None: or none


BIASED: dict[str, tuple[str, ...]] = {
    "attention_bias": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp_bias": ("gate_proj", "up_proj", "down_proj"),
    "qkv_bias": ("q_proj", "k_proj", "v_proj"),
}


def _rope_of(raw: Raw) -> dict[str, Any]:
    """Both spellings: `rope_parameters` (transformers 5), `rope_theta` with `rope_scaling` (before, and preferred)."""
    rope = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    rope.setdefault("rope_theta", raw.get("rope_theta", 10000.0))
    if rope.get("partial_rotary_factor") is None:
        rope["partial_rotary_factor"] = raw.get("partial_rotary_factor") or 1.0
    return rope


def _all_windowed(raw: Raw, count: int) -> list[LayerKind]:
    return [LayerKind(window=raw.get("sliding_window"))] * count


def _some_windowed(raw: Raw, count: int) -> list[LayerKind]:
    """Qwen's: where windows are used at all, the layers from some on."""
    window = raw.get("sliding_window", 4096) if raw.get("use_sliding_window") else None
    first = raw.get("max_window_layers", 28)
    kinds = raw.get("layer_types") or ["sliding_attention" if i >= first else "" for i in range(count)]
    return [LayerKind(window=window if kind == "sliding_attention" else None) for kind in kinds]


def _smollm3_layers(raw: Raw, count: int) -> list[LayerKind]:
    """Each fourth layer, unless said otherwise, knows of no positions."""
    every = raw.get("no_rope_layer_interval", 4)
    turned = raw.get("no_rope_layers") or [(index + 1) % every for index in range(count)]
    window = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    kinds = raw.get("layer_types") or ["" if is_turned else "sliding_attention" for is_turned in turned]
    return [
        LayerKind(0 if is_turned else None, window if kind == "sliding_attention" else None)
        for is_turned, kind in zip(turned[:count], kinds, strict=True)
    ]


def _granite_scales(raw: Raw) -> Scales:
    return Scales(
        attention=raw.get("attention_multiplier", 1.0),
        embedding=raw.get("embedding_multiplier", 1.0),
        residual=raw.get("residual_multiplier", 1.0),
        logits=1 / raw.get("logits_scaling", 1.0),
    )


def _granite_layers(raw: Raw, count: int) -> list[LayerKind]:
    """Raises InvalidRequest for the hybrids of the family."""
    kinds = raw.get("layer_types") or raw.get("layers_block_type") or ()
    if len(kinds) != count or not {*kinds} <= {"attention", "full_attention"}:
        raise InvalidRequest("The engine computes those of the Granite 4 models that have attention in every layer.")
    return [LayerKind(0 if raw.get("position_embedding_type") == "rope" else None)] * count


def _phi_rope(raw: Raw) -> list[dict[str, Any]]:
    """LongRoPE had other names."""
    rope = _rope_of(raw)
    kind = rope.get("rope_type", rope.get("type", "default"))
    return [{**rope, "rope_type": "longrope" if kind in ("su", "yarn") else kind}]


def _gemma_ropes(raw: Raw) -> list[dict[str, Any]]:
    """Of the layers that see all, and of those with a window."""
    given = raw.get("rope_parameters") or {}
    whole = {"rope_theta": raw["rope_theta"], **(raw.get("rope_scaling") or {}), **given.get("full_attention", {})}
    return [whole, {"rope_theta": raw["rope_local_base_freq"], **given.get("sliding_attention", {})}]


def _gemma_layers(raw: Raw, count: int) -> list[LayerKind]:
    every = raw.get("sliding_window_pattern", 6)
    kinds = raw.get("layer_types") or ["sliding_attention" if (index + 1) % every else "" for index in range(count)]
    near, far = LayerKind(1, raw["sliding_window"]), LayerKind(0)
    return [near if kind == "sliding_attention" else far for kind in kinds]


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(biases=("attention_bias", "mlp_bias"), required=()),
    "mistral": Architecture(layers=_all_windowed, assumed={"sliding_window": 4096}),
    "qwen2": Architecture(biases=("qkv_bias",), assumed={"qkv_bias": True}, layers=_some_windowed),
    "qwen3": Architecture(
        norms={**PLAIN_NORMS, **HEAD_NORMS},
        biases=("attention_bias",),
        layers=_some_windowed,
        required=("num_key_value_heads", "head_dim"),
    ),
    "smollm3": Architecture(
        biases=("attention_bias", "mlp_bias"),
        layers=_smollm3_layers,
        assumed={"rope_theta": 2_000_000.0, "tie_word_embeddings": True},
    ),
    "granite": Architecture(biases=("attention_bias", "mlp_bias"), scales=_granite_scales),
    "granitemoehybrid": Architecture(
        linears=MLP_SHARED,
        biases=("attention_bias",),
        inner="shared_intermediate_size",
        layers=_granite_layers,
        scales=_granite_scales,
        assumed={"num_local_experts": 8},
        only={"num_local_experts": 0},
    ),
    "phi3": Architecture(
        linears=FUSED,
        ropes=_phi_rope,
        layers=_all_windowed,
        assumed={"original_max_position_embeddings": 4096},
        only={"resid_pdrop": 0.0, "embd_pdrop": 0.0},
    ),
    "gemma3_text": Architecture(
        norms={**NORMS_AROUND, **HEAD_NORMS},
        norm_offset=1.0,
        biases=("attention_bias",),
        activation="hidden_activation",
        ropes=_gemma_ropes,
        layers=_gemma_layers,
        scales=lambda raw: Scales(raw["query_pre_attn_scalar"] ** -0.5, raw["hidden_size"] ** 0.5),
        assumed={
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
        },
        required=("num_key_value_heads", "head_dim"),
        only={"attn_logit_softcapping": None, "final_logit_softcapping": None, "use_bidirectional_attention": False},
    ),
}
