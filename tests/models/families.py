"""Small random models, with what their families write around messages: of each architecture that is described, of some
that are not and are computed over transformers' modules, and of some that are not computed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    BambaConfig,
    CohereConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeHybridConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from tests.random_models import LLAMA3, save_random
from tests.tiny_model import CHATML, write_byte_tokenizer

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.1,
}  # fmt: skip
WINDOW = 24  # shorter than the rows and prompts of the tests


@dataclass(frozen=True)
class Turns:
    """A family's special tokens and template, in its essential turns."""

    special: tuple[str, ...]
    end: str  # of a turn, and so of an answer
    template: str
    bos: str | None = None


CHAT = Turns(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|im_end|>", CHATML)
LLAMA_CHAT = Turns(
    ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "<|eot_id|>",
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "<|begin_of_text|>",
)
MISTRAL_CHAT = Turns(
    ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
    "</s>",
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ '[INST] ' + message['content'] + '[/INST]' }}{% endif %}"
    "{% endfor %}",
    "<s>",
)
GRANITE_CHAT = Turns(
    ("<|pad|>", "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    "<|end_of_text|>",
    "{% for message in messages %}"
    "{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
)
PHI_CHAT = Turns(
    ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "<|end|>",
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ '<|endoftext|>' }}{% endif %}",
)
GEMMA_CHAT = Turns(
    ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    "<end_of_turn>",
    "{{ bos_token }}{% set before = '' %}{% set turns = messages %}{% if messages[0]['role'] == 'system' %}"
    "{% set before = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}{% endif %}"
    "{% for message in turns %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (before if loop.first else '') + message['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "<bos>",
)


@dataclass(frozen=True)
class Family:
    config: Callable[..., PreTrainedConfig]
    turns: Turns
    settings: dict[str, Any]
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def write(self, folder: Path, **changes: Any) -> PreTrainedModel:
        """A model dir, in fp32; the model. `changes`: of its configuration."""
        turns = self.turns
        special = list(turns.special)
        names = {"eos_token": turns.end, "pad_token": special[0]}
        names |= {} if turns.bos is None else {"bos_token": turns.bos}
        ids = {"eos_token_id": special.index(turns.end), "pad_token_id": 0, "bos_token_id": None}
        vocab = write_byte_tokenizer(folder, special, names, turns.template, (("h", "e"),))
        shape = {name: value for name, value in {**SHAPE, **self.settings, **changes}.items() if value is not None}
        config = self.config(vocab_size=vocab, **shape, **ids)
        return save_random(config, folder)


MULTIPLIERS = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.1,
    "logits_scaling": 3.0,
}
FAMILIES = {
    "llama 3.2": Family(LlamaConfig, LLAMA_CHAT, {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama, with biases": Family(LlamaConfig, CHAT, {"attention_bias": True, "mlp_bias": True}),
    "mistral": Family(MistralConfig, MISTRAL_CHAT, {"sliding_window": WINDOW}),
    "qwen2": Family(Qwen2Config, CHAT, {}),
    "qwen3": Family(Qwen3Config, CHAT, {"tie_word_embeddings": True}),
    "qwen3, yarn and windows": Family(
        Qwen3Config,
        CHAT,
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 2,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "smollm3": Family(SmolLM3Config, CHAT, {"tie_word_embeddings": True}),
    "granite": Family(GraniteConfig, GRANITE_CHAT, MULTIPLIERS),
    "granite 4, dense": Family(
        GraniteMoeHybridConfig,
        GRANITE_CHAT,
        {
            **MULTIPLIERS,
            "num_local_experts": 0,
            "shared_intermediate_size": 96,
            "position_embedding_type": "rope",
            "layer_types": ["full_attention"] * 4,
            "tie_word_embeddings": True,
            "mamba_n_heads": 8,
        },
        ("q_proj", "k_proj", "v_proj", "o_proj", "input_linear", "output_linear"),
    ),
    "phi 4 mini": Family(
        Phi3Config,
        PHI_CHAT,
        {
            "tie_word_embeddings": True,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 128,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5],
                "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
                "original_max_position_embeddings": 128,
            },
        },
        ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    ),
    "gemma 3": Family(
        Gemma3TextConfig,
        GEMMA_CHAT,
        {
            "sliding_window": WINDOW,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 24,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
}
UNDESCRIBED = {
    "pythia": Family(
        GPTNeoXConfig,
        CHAT,
        {"num_key_value_heads": 4},
        ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ),
    "olmo 2": Family(Olmo2Config, CHAT, {}),
    "starcoder 2, with windows": Family(
        Starcoder2Config,
        CHAT,
        {"sliding_window": WINDOW},
        ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"),
    ),
    "cohere": Family(CohereConfig, CHAT, {"logit_scale": 0.5}),
    "phi 2": Family(PhiConfig, CHAT, {}, ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")),
    "llama, with another activation": Family(LlamaConfig, CHAT, {"hidden_act": "gelu"}),
}
UNKNOWN = {
    "bamba, with states": Family(
        BambaConfig, CHAT, {"attn_layer_indices": [1, 3], "mamba_n_heads": 8, "mamba_d_head": 16}
    ),
    "gpt-oss, with sinks": Family(GptOssConfig, CHAT, {"num_local_experts": 4}),
    "stablelm, whose attention is told nothing": Family(StableLmConfig, CHAT, {}),
    "falcon, with an attention of its own": Family(FalconConfig, CHAT, {"ffn_hidden_size": 96, "head_dim": None}),
}
