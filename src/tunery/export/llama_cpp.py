"""The GGUF file that llama.cpp, Ollama and LM Studio load.

The adapter is part of the weights. What makes an answer right beside them lies in the file's metadata: how text is
split into tokens, which tokens end an answer, and the chat template. Tensors pass one at a time.
"""

import ctypes
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.constants import LlamaFileType

from tunery.chat.render import Renderer
from tunery.domain.errors import InvalidRequest
from tunery.export.modelfile import modelfile
from tunery.export.spec import ExportSpec
from tunery.export.tensors import StoredTensor, stored_tensors
from tunery.models.adapter_files import AdapterFiles
from tunery.models.config import ModelConfig, read_config
from tunery.models.rope import rope_frequencies
from tunery.models.sources.base import Progress
from tunery.models.sources.gguf import CONTROL_TOKEN, USER_TOKEN

NORMAL_TOKEN, UNUSED_TOKEN = 1, 5
FILE = "model.gguf"
TYPES = {
    "f16": (Kind.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (Kind.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (Kind.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_k_m": (Kind.Q4_K, LlamaFileType.MOSTLY_Q4_K_M),
}
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_ROPES = ("default", "linear", "llama3")
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
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}  # Qwen 3
_NAMES = {theirs: ours for ours, theirs in {**LAYER_NAMES, **_HEAD_NORMS}.items()}
_TOPS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
# How text is split before tokens are made of it: by what tokenizer.json says, the name that llama.cpp has for it.
_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_SPLIT % r"\p{N}{1,3}": "llama-bpe", _SPLIT % r"\p{N}": "qwen2"}


def write_gguf(spec: ExportSpec, adapter: AdapterFiles | None, target: Path, progress: Progress) -> None:
    """`model.gguf`, and for Ollama `Modelfile`. Raises InvalidRequest for a tokenizer that has no name in llama.cpp."""
    model_dir = spec.model_dir
    config = read_config(model_dir)
    writer = gguf.GGUFWriter(target / FILE, architecture_of(config))
    kind, file_type = TYPES[spec.type]
    writer.add_name(spec.name)
    writer.add_file_type(file_type)
    _add_shape(writer, config)
    _add_tokenizer(writer, model_dir, config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set[str]()
    tensors = [each for each in stored_tensors(model_dir) if each.name not in tied]
    kinds = [_kind_of(each, kind, config) for each in tensors]
    quantize = _quantize_k if kind is Kind.Q4_K else gguf.quants.quantize
    if factors := _rope_factors(config):
        writer.add_tensor_info("rope_freqs.weight", (len(factors),), np.dtype(np.float32), 4 * len(factors))
    for each, chosen in zip(tensors, kinds, strict=True):
        num_bytes = _num_bytes(each.shape, chosen)
        writer.add_tensor_info(name_of(each.name), each.shape, np.dtype(np.float32), num_bytes, chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors:
        writer.write_tensor_data(np.array(factors, np.float32))
    total, done = sum(each.num_bytes for each in tensors), 0
    for each, chosen in zip(tensors, kinds, strict=True):
        progress("writing", done, total)
        values = torch.cat([piece.float() for piece in each.rows(adapter, torch.float32)]).numpy()
        writer.write_tensor_data(quantize(as_stored(each.name, values, config), chosen))
        done += each.num_bytes
    writer.close()
    if spec.format == "ollama":
        (target / "Modelfile").write_text(modelfile(Renderer.from_dir(model_dir), config, FILE), "utf-8")


def architecture_of(config: ModelConfig) -> str:
    """llama.cpp's name. Raises InvalidRequest for what is not written here."""
    name = _ARCHITECTURES.get(config.model_type)
    if name is None or any(rope["rope_type"] not in _ROPES for rope in config.ropes):
        raise InvalidRequest(
            f"A model of the architecture {config.model_type!r}, or with its rotary embedding, is not exchanged as "
            "GGUF yet. Export it as 'merged': llama.cpp's own convert_hf_to_gguf.py makes a GGUF file of that.",
            param="format",
        )
    return name


_SMALLER_BLOCKS = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0}


def _kind_of(tensor: StoredTensor, wanted: Kind, config: ModelConfig) -> Kind:
    """Norms and biases in fp32; a row that does not fill its blocks in a kind of smaller blocks, or as plain halves."""
    if len(tensor.shape) == 1:
        return Kind.F32
    if wanted is Kind.Q4_K and _needs_more_bits(tensor.name, config):
        wanted = Kind.Q6_K
    for kind in (wanted, _SMALLER_BLOCKS.get(wanted, wanted)):
        block, _ = gguf.GGML_QUANT_SIZES[kind]
        if tensor.shape[-1] % block == 0:
            return kind
    return Kind.F16


def _needs_more_bits(name: str, config: ModelConfig) -> bool:
    """llama.cpp's rule for Q4_K_M: the head, and values and the way down in the first, last and each third layer."""
    if not name.startswith("model.layers."):
        return name == "lm_head.weight" or config.tie_word_embeddings
    layer, num = int(name.split(".")[2]), config.num_layers
    if not name.endswith(("v_proj.weight", "down_proj.weight")):
        return False
    return layer < num // 8 or layer >= 7 * num // 8 or (layer - num // 8) % 3 == 2


def _quantize_k(values: np.ndarray[Any, Any], kind: Kind) -> np.ndarray[Any, Any]:
    """By llama.cpp's own code, which lies in xllamacpp's library: the `gguf` package reads these kinds and writes none.

    values [rows, in] or [in], fp32. Raises InvalidRequest.
    """
    if kind in (Kind.F32, Kind.F16):
        return gguf.quants.quantize(values, kind)
    rows = np.ascontiguousarray(values, np.float32)
    done = np.empty(_num_bytes(rows.shape, kind), np.uint8)
    quantize = _llama_cpp().ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    place, number = ctypes.c_void_p, ctypes.c_int64
    quantize.argtypes = [ctypes.c_int, place, place, number, number, number, place]
    quantize(int(kind), rows.ctypes.data, done.ctypes.data, 0, rows.size // rows.shape[-1], rows.shape[-1], None)
    return done.reshape(*rows.shape[:-1], -1)


@cache
def _llama_cpp() -> ctypes.CDLL:
    """Raises InvalidRequest."""
    found = find_spec("xllamacpp")
    for path in Path(found.origin).parent.glob("xllamacpp*.so") if found and found.origin else ():
        library = ctypes.CDLL(str(path))
        if hasattr(library, "ggml_quantize_chunk"):
            return library
    raise InvalidRequest(
        "llama.cpp, which rounds to q4_k_m, is not installed: pip install 'tunery[llamacpp]'. Choose 'q8_0' where "
        "there is none.",
        param="type",
    )


def _num_bytes(shape: tuple[int, ...], kind: Kind) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // block * size


def name_of(name: str) -> str:
    """llama.cpp's. Raises InvalidRequest."""
    module, _, part = name.rpartition(".")
    if module in _TOPS:
        return f"{_TOPS[module]}.{part}"
    parts = module.split(".", 3)
    if len(parts) == 4 and parts[:2] == ["model", "layers"] and parts[3] in _NAMES:
        return f"blk.{parts[2]}.{_NAMES[parts[3]]}.{part}"
    raise InvalidRequest(f"The tensor {name!r} has no place in a GGUF file.", param="format")


def as_stored(name: str, values: np.ndarray[Any, Any], config: ModelConfig) -> np.ndarray[Any, Any]:
    """llama.cpp's llama rotates pairs that lie side by side, transformers' the two halves of a head.

    values [out, in] or [out].
    """
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
    if heads is None or config.model_type not in ("llama", "mistral"):
        return values
    split = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))


def _rope_factors(config: ModelConfig) -> list[float]:
    """By how much Llama 3's rule slows each frequency; none for other rules."""
    (rope,) = config.ropes
    if rope["rope_type"] != "llama3":
        return []
    return (rope_frequencies({**rope, "rope_type": "default"}) / rope_frequencies(rope)).tolist()


def _add_shape(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    (rope,) = config.ropes
    # llama.cpp has no windows here: up to the length of one, both attentions are the same.
    windows = (kind.window for kind in config.layers if kind.window is not None)
    writer.add_context_length(min([config.context_length, *windows]))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, model_dir: Path, config: ModelConfig) -> None:
    document = json.loads((model_dir / "tokenizer.json").read_text("utf-8"))
    renderer = Renderer.from_dir(model_dir)
    added = {token["id"]: token for token in document.get("added_tokens", ())}
    names = {index: text for text, index in document["model"]["vocab"].items()}
    names |= {index: token["content"] for index, token in added.items()}
    kinds = {index: CONTROL_TOKEN if token["special"] else USER_TOKEN for index, token in added.items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_of(document))
    writer.add_token_list([names.get(index, f"[PAD{index}]") for index in range(config.vocab_size)])
    writer.add_token_types(
        [kinds.get(index, NORMAL_TOKEN if index in names else UNUSED_TOKEN) for index in range(config.vocab_size)]
    )
    merges = document["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_add_bos_token(False)  # the template writes all that stands before a prompt
    for name, add in (
        ("bos_token", writer.add_bos_token_id),
        ("eos_token", writer.add_eos_token_id),
        ("unk_token", writer.add_unk_token_id),
        ("pad_token", writer.add_pad_token_id),
    ):
        index = renderer.tokenizer.token_to_id(renderer.special_tokens.get(name, ""))
        if index is not None:
            add(index)
    if (end := renderer.tokenizer.token_to_id(renderer.end_of_turn)) is not None:
        writer.add_eot_token_id(end)
    writer.add_chat_template(renderer.template.source)


def _split_of(document: dict[str, Any]) -> str:
    """Raises InvalidRequest for a tokenizer that llama.cpp's names are not known of here."""
    rule = document.get("pre_tokenizer") or {}
    steps = rule.get("pretokenizers", [rule])
    kinds = [step.get("type") for step in steps]
    if document["model"]["type"] == "BPE" and document["model"]["merges"] and kinds[-1] == "ByteLevel":
        if kinds == ["ByteLevel"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
            return "smollm"
        found = _SPLITS.get(steps[0].get("pattern", {}).get("Regex", "")) if kinds[0] == "Split" else None
        if found:
            return found
    raise InvalidRequest(
        "The base's tokenizer splits text in a way whose name in llama.cpp is not known here. Export the model as "
        "'merged': llama.cpp's own convert_hf_to_gguf.py may know it.",
        param="format",
    )
