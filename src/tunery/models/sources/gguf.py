"""Turns one GGUF file into a model dir: bf16 safetensors, tokenizer, template, config.

What a kind of model is comes from its description (models.architecture), what its tensors are called from the `gguf`
package; here stands what llama.cpp's converter changed on the way, which is done again backwards. By hand rather than
through transformers' reader for three reasons: it needs no torch, it takes two seconds rather than twenty, and
transformers leaves the quantised weights packed and the tokenizer without the splitting of digits that the `smollm`
family was trained with.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from tunery.models.config import ModelConfig, module_sizes, read_config

CONTROL_TOKEN, USER_TOKEN = 3, 4  # GGUF's types of special tokens, and of others that are never cut

_ARCHITECTURES = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}


class UnsupportedGGUF(ValueError):
    """The file holds something this reader does not know; the message says what."""


@dataclass(frozen=True)
class _Kind:
    """Of the models whose `general.architecture` is one of KINDS."""

    model_type: str  # transformers'
    name: str  # of its class
    is_interleaved: bool = False  # pairs that are turned lie side by side, not in the halves of a head
    config: Callable[["_File"], dict[str, Any]] = lambda file: {}  # what config.json has besides
    rope: Callable[["_File"], dict[str, Any]] = lambda file: _plain_rope(file)


class Reader(gguf.GGUFReader):
    """Reads nothing that lies behind the end of the file, whatever its header says: the library would count on.

    Raises ValueError, KeyError, IndexError and others where the header is not what it should be.
    """

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("the file ends before what its header names")
        return super()._get(offset, dtype, count, override_order)


class _File:
    def __init__(self, path: Path) -> None:
        self.reader = Reader(path)
        self.name = path.name
        self.architecture = self.value("general.architecture")
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}

    def value(self, key: str, default: Any = None) -> Any:
        return self.reader.fields[key].contents() if key in self.reader.fields else default

    def own(self, key: str, default: Any = None) -> Any:
        """Of a key that begins with the architecture's name."""
        return self.value(f"{self.architecture}.{key}", default)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """fp32, of any shape. Raises UnsupportedGGUF where it is missing."""
        shape, tensor = self.shape(name), self.tensors[name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        return values.reshape(tuple(reversed(shape)))

    def shape(self, name: str) -> list[int]:
        """As GGUF counts, the innermost first. Raises UnsupportedGGUF where it is missing."""
        if name not in self.tensors:
            raise UnsupportedGGUF(f"{self.name} has no tensor {name!r}.")
        return self.tensors[name].shape.tolist()

    @property
    def head_dim(self) -> int:
        return self.own("attention.key_length") or self.own("embedding_length") // self.own("attention.head_count")


def convert(source: Path, target: Path) -> str:
    """Write the model dir of `source` into the existing folder `target`; the licence that the file names.

    Raises UnsupportedGGUF, and what Reader does.
    """
    file = _File(source)
    if file.architecture not in KINDS:
        raise UnsupportedGGUF(
            f"{source.name} is of the architecture {file.architecture!r}; these are read from GGUF: "
            f"{', '.join(sorted(KINDS))}. Use an `hf:` source for this model."
        )
    config = _config(file)
    _write_json(target / "config.json", config)
    _write_json(target / "generation_config.json", {key: config[key] for key in _TOKEN_IDS})
    _write_tokenizer(file, target)
    _write_weights(file, read_config(target), target / "model.safetensors")
    return str(file.value("general.license", ""))


_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _config(file: _File) -> dict[str, Any]:
    kind, own = KINDS[file.architecture], file.own
    heads = own("attention.head_count")
    ends = [file.value(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    return {
        "architectures": [kind.name],
        "model_type": kind.model_type,
        "hidden_size": own("embedding_length"),
        "intermediate_size": own("feed_forward_length"),
        "num_hidden_layers": own("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": own("attention.head_count_kv", heads),
        "head_dim": file.head_dim,
        "max_position_embeddings": own("context_length"),
        "rope_parameters": kind.rope(file),
        "rms_norm_eps": round(float(own("attention.layer_norm_rms_epsilon")), 12),
        "vocab_size": len(file.value("tokenizer.ggml.tokens")),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.value("tokenizer.ggml.bos_token_id"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": file.value("tokenizer.ggml.padding_token_id"),
        "dtype": "bfloat16",
        **kind.config(file),
    }


def _plain_rope(file: _File) -> dict[str, Any]:
    """Raises UnsupportedGGUF."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(file.own("rope.freq_base", 10000.0))}
    if file.own("rope.dimension_count", file.head_dim) != file.head_dim:
        raise UnsupportedGGUF(f"{file.name} turns a part of each head only, which is read of Phi-3 alone.")
    kind, factor = file.own("rope.scaling.type", "none"), file.own("rope.scaling.factor")
    if "rope_freqs.weight" in file.tensors:
        return {**rope, **_llama3(file.array("rope_freqs.weight"), rope["rope_theta"], file.name)}
    if kind == "yarn":
        original = file.own("rope.scaling.original_context_length")
        return {**rope, "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    if kind == "linear" and factor not in (None, 0.0, 1.0):
        return {**rope, "rope_type": "linear", "factor": factor}
    if kind not in ("none", "linear"):
        raise UnsupportedGGUF(f"{file.name} scales its rotary embedding by the rule {kind!r}, which is not read.")
    return rope


def _llama3(slowed: np.ndarray[Any, Any], theta: float, name: str) -> dict[str, Any]:
    """The numbers of Llama 3's rule, of which the file has only by how much it slows each frequency: the longest waves
    tell the factor, one between short and long the original context. Raises UnsupportedGGUF.

    slowed [D / 2].
    """
    if np.all(slowed == 1):
        return {}
    size, factor = len(slowed), float(slowed.max())
    waves = 2 * np.pi * theta ** (np.arange(size) / size)
    low, high = 1.0, 4.0  # in all models of the family
    blend = (1 / slowed - 1 / factor) / (1 - 1 / factor) if factor > 1 else np.ones(size)
    between = (blend > 0.001) & (blend < 0.999)
    told = ((blend * (high - low) + low) * waves)[between]
    original = round(float(np.median(told))) if len(told) else 0
    rule = np.clip((original / waves - low) / (high - low), 0, 1)
    if not original or not np.allclose(1 / ((1 - rule) / factor + rule), slowed, rtol=1e-3):
        raise UnsupportedGGUF(f"{name} slows its rotary embedding by numbers that are not of Llama 3's rule.")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _phi_rope(file: _File) -> dict[str, Any]:
    rope = {
        "rope_type": "default",
        "rope_theta": float(file.own("rope.freq_base", 10000.0)),
        "partial_rotary_factor": file.own("rope.dimension_count", file.head_dim) / file.head_dim,
    }
    if "rope_factors_short.weight" not in file.tensors:
        return rope
    long, short = (file.array(f"rope_factors_{length}.weight").tolist() for length in ("long", "short"))
    original = file.own("rope.scaling.original_context_length")
    rope |= {"rope_type": "longrope", "long_factor": long, "short_factor": short}
    scale = file.own("rope.scaling.attn_factor")
    rope |= {} if scale is None else {"attention_factor": float(scale)}
    return {**rope, "original_max_position_embeddings": original}


def _phi_config(file: _File) -> dict[str, Any]:
    original = file.own("rope.scaling.original_context_length", file.own("context_length"))
    window = file.own("attention.sliding_window") or None
    return {"original_max_position_embeddings": original, "sliding_window": window}


def _gemma_rope(file: _File) -> dict[str, Any]:
    local = float(file.own("rope.freq_base_swa", 10000.0))
    return {"full_attention": _plain_rope(file), "sliding_attention": {"rope_type": "default", "rope_theta": local}}


_GEMMA_27B = 62  # layers: the one size whose scores are scaled by another rule


def _gemma_config(file: _File) -> dict[str, Any]:
    is_27b = file.own("block_count") == _GEMMA_27B
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": file.own("embedding_length") // file.own("attention.head_count")
        if is_27b
        else file.head_dim,
        "sliding_window": file.own("attention.sliding_window"),
        "sliding_window_pattern": 6,
        "final_logit_softcapping": file.own("final_logit_softcapping"),
    }


def _granite_config(file: _File) -> dict[str, Any]:
    return {
        "attention_multiplier": float(file.own("attention.scale", file.head_dim**-0.5)),
        "embedding_multiplier": float(file.own("embedding_scale", 1.0)),
        "residual_multiplier": float(file.own("residual_scale", 1.0)),
        "logits_scaling": float(file.own("logit_scale", 1.0)),
    }


KINDS = {
    "llama": _Kind("llama", "LlamaForCausalLM", is_interleaved=True),
    "qwen2": _Kind("qwen2", "Qwen2ForCausalLM"),
    "qwen3": _Kind("qwen3", "Qwen3ForCausalLM"),
    "smollm3": _Kind(
        "smollm3", "SmolLM3ForCausalLM", is_interleaved=True, config=lambda file: {"no_rope_layer_interval": 4}
    ),
    "granite": _Kind("granite", "GraniteForCausalLM", is_interleaved=True, config=_granite_config),
    "phi3": _Kind("phi3", "Phi3ForCausalLM", config=_phi_config, rope=_phi_rope),
    "gemma3": _Kind("gemma3_text", "Gemma3ForCausalLM", config=_gemma_config, rope=_gemma_rope),
}


_ENDS = r" ?[^\s\p{L}\p{N}]+[\r\n%s]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = _SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BY_CASE = (
    r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+%s|" + r"[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*%s|"
)
# How text is split before tokens are made of it, by llama.cpp's names for the rules.
_SPLITS = {
    **dict.fromkeys(("llama-bpe", "llama3", "smaug-bpe", "dbrx"), _WORDS + r"\p{N}{1,3}|" + _ENDS % ""),
    "qwen2": _WORDS + r"\p{N}|" + _ENDS % "",
    "gpt-4o": _BY_CASE % (_SHORT + "?", _SHORT + "?") + r"\p{N}{1,3}|" + _ENDS % "/",
    "tekken": _BY_CASE % ("", "") + r"\p{N}|" + _ENDS % "/",
}


def _pre_tokenizer(kind: str) -> pre_tokenizers.PreTokenizer:
    """Raises UnsupportedGGUF."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if kind in ("smollm", "refact", "command-r", "starcoder"):
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    if kind in ("gpt-2", "default"):
        return byte_level
    if kind in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[kind]), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise UnsupportedGGUF(f"The file's tokenizer splits text by the rule {kind!r}, which this reader does not know.")


def _byte_level(file: _File, vocab: dict[str, int]) -> Tokenizer:
    merges = [tuple(merge.split(" ", 1)) for merge in file.value("tokenizer.ggml.merges")]
    ignores = file.value("tokenizer.ggml.pre") in ("llama-bpe", "llama3", "tekken")  # a word that is a token is one
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignores))
    tokenizer.pre_tokenizer = _pre_tokenizer(file.value("tokenizer.ggml.pre", "default"))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


_BLANK = "\u2581"


def _sentence_piece(file: _File, vocab: dict[str, int]) -> Tokenizer:
    """SentencePiece joins the two neighbours whose whole has the best score: each token's parts are a merge of that
    rank."""
    scores = dict(zip(vocab, file.value("tokenizer.ggml.scores"), strict=True))
    ranked = list[tuple[float, int, int, tuple[str, str]]]()
    for token, score in scores.items():
        for cut in range(1, len(token)):
            parts = (token[:cut], token[cut:])
            if parts[0] in vocab and parts[1] in vocab:
                ranked.append((-score, len(parts[0]), len(parts[1]), parts))
    merges = [parts for *_, parts in sorted(ranked)]
    unknown = file.value("tokenizer.ggml.tokens")[file.value("tokenizer.ggml.unknown_token_id", 0)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token=unknown))
    begins = file.value("tokenizer.ggml.add_space_prefix", True)
    blanks: list[Any] = [normalizers.Replace(" ", _BLANK)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), *blanks] if begins else blanks)
    ends: list[Any] = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*ends, decoders.Strip(" ", 1, 0)] if begins else ends)
    return tokenizer


_TOKENIZERS = {"gpt2": _byte_level, "llama": _sentence_piece}


def _write_tokenizer(file: _File, target: Path) -> None:
    """Raises UnsupportedGGUF."""
    value, name = file.value, file.value("tokenizer.ggml.model")
    if name not in _TOKENIZERS:
        raise UnsupportedGGUF(f"Tokenizer {name!r} is not read from GGUF, only BPE of bytes and SentencePiece.")
    tokens: list[str] = value("tokenizer.ggml.tokens")
    kinds: list[int] = value("tokenizer.ggml.token_type")
    tokenizer = _TOKENIZERS[name](file, {token: index for index, token in enumerate(tokens)})
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    whole = [token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_TOKEN]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in whole])
    tokenizer.save(str(target / "tokenizer.json"))

    def token(key: str) -> str | None:
        index = value(f"tokenizer.ggml.{key}_token_id")
        return None if index is None else tokens[index]

    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": file.own("context_length"),
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


def _write_weights(file: _File, config: ModelConfig, target: Path) -> None:
    """A tensor at a time, so that no second copy of the model is in memory."""
    names = _tensor_names(config)
    places = gguf.get_tensor_name_map(_ARCHITECTURES[file.architecture], config.num_layers)
    is_interleaved = KINDS[file.architecture].is_interleaved
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads} if is_interleaved else {}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset, stored = 0, list[tuple[str, str]]()
    for name in names:
        place = places.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise UnsupportedGGUF(f"{file.name} has no place for the tensor {name!r}.")
        stored.append((name, place))
        shape = list(reversed(file.shape(place)))
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    with target.open("wb") as out:
        _write_header(out, header)
        for name, place in stored:
            array = file.array(place)
            module = name.split(".")[-2]
            if module in heads:
                array = unpermute(array, heads[module])
            if config.norm_offset and name.endswith("norm.weight"):
                array = array - np.float32(config.norm_offset)
            out.write(_bfloat16_bytes(array))


def _tensor_names(config: ModelConfig) -> list[str]:
    """transformers', of all that the description has."""
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    names += [] if config.tie_word_embeddings else ["lm_head.weight"]
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}."
        names += [f"{prefix}{name}.weight" for name in (*config.norms.values(), *module_sizes(config))]
        names += [f"{prefix}{name}.bias" for name in module_sizes(config) if name.rpartition(".")[2] in config.biased]
    return names


def _write_header(file: BinaryIO, header: dict[str, Any]) -> None:
    """safetensors' format by hand: numpy has no bf16, so the library's numpy writer cannot be handed these tensors."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


def unpermute(array: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """From llama.cpp's interleaved rotary halves back to transformers' two halves. array [H · D, in] or [H · D]."""
    split = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return split.swapaxes(1, 2).reshape(array.shape)


def _bfloat16_bytes(array: np.ndarray) -> bytes:
    """Round to nearest even, as torch does. An array of any shape."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded >> 16).astype(np.uint16).tobytes()


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
