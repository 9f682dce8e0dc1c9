"""Turns one GGUF file of the llama family into a model dir: bf16 safetensors, tokenizer, template, config.

Done by hand rather than through transformers' reader for three reasons: it needs no torch, it takes two seconds
rather than twenty, and transformers leaves the quantised weights packed and the tokenizer without the splitting of
digits that the `smollm` family was trained with.
"""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

CONTROL_TOKEN = 3  # GGUF's token type of special tokens

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


class UnsupportedGGUF(ValueError):
    """The file holds something this reader does not know; the message says what."""


def convert(source: Path, target: Path) -> None:
    """Write the model dir of `source` into the existing folder `target`."""
    reader = gguf.GGUFReader(source)
    meta = dict(reader.fields)

    def value(key: str, default: Any = None) -> Any:
        return meta[key].contents() if key in meta else default

    if value("general.architecture") != "llama":
        raise UnsupportedGGUF(
            f"{source.name} is of the architecture {value('general.architecture')!r}; only 'llama' is read from GGUF. "
            "Use an `hf:` source for this model."
        )
    config = _config(value, {tensor.name for tensor in reader.tensors})
    _write_json(target / "config.json", config)
    _write_json(target / "generation_config.json", {key: config[key] for key in _TOKEN_IDS})
    _write_tokenizer(value, target)
    _write_weights(reader, config, target / "model.safetensors")


_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _config(value: Any, tensor_names: set[str]) -> dict[str, Any]:
    heads = value("llama.attention.head_count")
    hidden = value("llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": value("llama.feed_forward_length"),
        "num_hidden_layers": value("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("llama.attention.head_count_kv", heads),
        "head_dim": value("llama.rope.dimension_count", hidden // heads),
        "max_position_embeddings": value("llama.context_length"),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(value("llama.rope.freq_base", 10000.0))},
        "rms_norm_eps": round(float(value("llama.attention.layer_norm_rms_epsilon")), 12),
        "vocab_size": len(value("tokenizer.ggml.tokens")),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": "output.weight" not in tensor_names,
        "bos_token_id": value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": value("tokenizer.ggml.eos_token_id"),
        "pad_token_id": value("tokenizer.ggml.padding_token_id"),
        "dtype": "bfloat16",
    }


def _pre_tokenizer(kind: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if kind in ("smollm", "refact", "command-r", "starcoder"):
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if kind in ("gpt-2", "default"):
        return byte_level
    if kind in ("llama-bpe", "llama3"):
        pattern = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+"
        )
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise UnsupportedGGUF(f"The file's tokenizer splits text by the rule {kind!r}, which this reader does not know.")


def _write_tokenizer(value: Any, target: Path) -> None:
    if value("tokenizer.ggml.model") != "gpt2":
        raise UnsupportedGGUF(
            f"Tokenizer {value('tokenizer.ggml.model')!r} is not read from GGUF, only byte-level BPE."
        )
    tokens: list[str] = value("tokenizer.ggml.tokens")
    kinds: list[int] = value("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ", 1)) for merge in value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(value("tokenizer.ggml.pre", "default"))
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(target / "tokenizer.json"))

    def token(key: str) -> str | None:
        index = value(f"tokenizer.ggml.{key}_token_id")
        return None if index is None else tokens[index]

    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": value("llama.context_length"),
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "clean_up_tokenization_spaces": False,
    }
    _write_json(target / "tokenizer_config.json", {key: item for key, item in settings.items() if item is not None})
    template = value("tokenizer.chat_template")
    if template is not None:
        (target / "chat_template.jinja").write_text(template, "utf-8")


def _write_weights(reader: gguf.GGUFReader, config: dict[str, Any], target: Path) -> None:
    arrays: dict[str, bytes] = {}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in reader.tensors:
        name = _tensor_name(tensor.name)
        if name is None:
            continue
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        array = array.reshape(tuple(reversed(tensor.shape.tolist())))
        if ".attn_q." in tensor.name:
            array = unpermute(array, config["num_attention_heads"])
        elif ".attn_k." in tensor.name:
            array = unpermute(array, config["num_key_value_heads"])
        arrays[name] = _bfloat16_bytes(array)
        header[name] = {
            "dtype": "BF16",
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(arrays[name])],
        }
        offset += len(arrays[name])
    _write_safetensors(target, header, list(arrays.values()))


def _write_safetensors(target: Path, header: dict[str, Any], data: list[bytes]) -> None:
    """The format by hand: numpy has no bf16, so the library's numpy writer cannot be handed these tensors."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        file.writelines(data)


def _tensor_name(name: str) -> str | None:
    """transformers' name, or None for tables that transformers computes itself."""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    if parts[0] == "rope_freqs":
        return None
    return f"{TOP_NAMES[parts[0]]}.{parts[1]}"


def unpermute(array: np.ndarray, heads: int) -> np.ndarray:
    """From llama.cpp's interleaved rotary halves back to transformers' two halves. array [H · D, in]."""
    return array.reshape(heads, array.shape[0] // heads // 2, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


def _bfloat16_bytes(array: np.ndarray) -> bytes:
    """Round to nearest even, as torch does. An array of any shape."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded >> 16).astype(np.uint16).tobytes()


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
