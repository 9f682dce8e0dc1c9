"""GGUF files of each architecture, written as llama.cpp's converter writes them: llama.cpp itself answers from them as
transformers does from the weights that they were made of, and read here they are those weights again."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import gguf
import httpx
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests import datasets
from tests.models.families import FAMILIES
from tests.random_models import LLAMA3
from tests.serving.test_forward import make_model
from tunery.chat.examples import Message
from tunery.chat.render import Renderer
from tunery.export.llama_cpp import _quantize_k
from tunery.export.proof import Reading, _as_rendered, _greedy, _render
from tunery.models.sources.gguf import UnsupportedGGUF, _llama3, convert
from tunery.serving.forward.model import Run

Array = np.ndarray[Any, Any]

ORIGINAL = {"original_max_position_embeddings": 256}
# By the name in GGUF: the family, what llama.cpp computes for this architecture whatever the file says, and the
# metadata beside what all have.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama 3.2", {}, {}),
    "qwen2": ("qwen2", {}, {}),
    "qwen3": (
        "qwen3, yarn and windows",
        {"use_sliding_window": False},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64},
    ),
    "smollm3": ("smollm3", {}, {}),
    "granite": (
        "granite",
        {},
        {"attention.scale": 0.1, "embedding_scale": 12.0, "residual_scale": 0.22, "logit_scale": 3.0},
    ),
    "phi3": (
        "phi 4 mini",
        {
            "max_position_embeddings": 1024,
            **ORIGINAL,  # llama.cpp's least context: above it, it takes the long factors
            "rope_parameters": {**FAMILIES["phi 4 mini"].settings["rope_parameters"], **ORIGINAL},
        },
        {
            "rope.scaling.original_context_length": 256,
            "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(1024 / 256) / np.log(256))),
            "rope.dimension_count": 12,
            "attention.sliding_window": 0,
        },
    ),
    "gemma3": (
        "gemma 3",
        {"query_pre_attn_scalar": 16, "sliding_window_pattern": 6, "num_hidden_layers": 6},
        {"attention.sliding_window": 24},
    ),
}
INTERLEAVED = {"llama", "smollm3", "granite"}
KINDS = [Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.Q8_0, Kind.F16, Kind.BF16]
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 16}  # what a block of Q4_K needs
PROMPT = [40 + 7 * number % 200 for number in range(50)]


AddTokenizer = Callable[[gguf.GGUFWriter, Path], None]


def write_gguf(
    folder: Path,
    model: PreTrainedModel,
    architecture: str,
    path: Path,
    *,
    kinds: Sequence[Kind] = (),
    add_tokenizer: AddTokenizer | None = None,
) -> None:
    """As llama.cpp's convert_hf_to_gguf.py writes it: in fp32, or its matrices by turns in `kinds`. Then the model's
    weights become those that the file holds, as bf16."""
    config, rope = cast(Any, model.config), cast(Any, model.config).rope_parameters
    writer = gguf.GGUFWriter(path, architecture)
    add_shape(writer, config, CASES[architecture][2])
    (add_tokenizer or add_byte_level)(writer, folder)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope))
    if rope.get("rope_type") == "longrope":
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
    turns = itertools.cycle(kinds)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        heads = heads if architecture in INTERLEAVED else None
        values = as_stored(name, tensor.float().numpy(), heads, architecture)
        kind = next(turns) if kinds and values.ndim == 2 else Kind.F32
        data = (_quantize_k if kind.name.endswith("_K") else gguf.quants.quantize)(values, kind)
        writer.add_tensor(place_of(name, architecture, config), data, raw_dtype=None if kind is Kind.F32 else kind)
        if kinds:
            held = gguf.quants.dequantize(data, kind).reshape(values.shape)
            tensor.copy_(torch.from_numpy(as_computed(name, held, heads, architecture)).bfloat16())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer: gguf.GGUFWriter, config: Any, more: dict[str, Any]) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_string("general.license", "apache-2.0")
    for key, value in {"rope.dimension_count": 16, **more}.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{writer.arch}.{key}", value)


def add_byte_level(writer: gguf.GGUFWriter, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special, tokens = tokenizer.get_added_tokens_decoder(), range(tokenizer.get_vocab_size())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokenizer.id_to_token(index) for index in tokens])
    writer.add_token_types([3 if index in special else 1 for index in tokens])
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(json.loads((folder / "config.json").read_text())["eos_token_id"])
    writer.add_add_bos_token(False)


def as_stored(name: str, values: Array, heads: int | None, architecture: str) -> Array:
    """As llama.cpp's converter changes them. values [out, in] or [out]."""
    if heads:
        split = values.reshape(heads, 2, len(values) // heads // 2, -1)
        return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))
    return values + np.float32(1) if architecture == "gemma3" and name.endswith("norm.weight") else values


def as_computed(name: str, values: Array, heads: int | None, architecture: str) -> Array:
    """Backwards. values [out, in] or [out]."""
    if heads:
        split = values.reshape(heads, len(values) // heads // 2, 2, -1)
        return np.concatenate([split[:, :, 0], split[:, :, 1]], 1).reshape(values.shape)
    return values - np.float32(1) if architecture == "gemma3" and name.endswith("norm.weight") else values


def place_of(name: str, architecture: str, config: Any) -> str:
    kind = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    place = gguf.get_tensor_name_map(kind, config.num_hidden_layers).get_name(name, try_suffixes=(".weight", ".bias"))
    assert place is not None
    return place


def llama3_factors(rope: dict[str, Any]) -> Array:
    """By how much each frequency is slowed. [D / 2]."""
    waves = 2 * np.pi * rope["rope_theta"] ** (np.arange(8) / 8)
    low, high, original = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


@contextmanager
def llama_cpp(path: Path) -> Iterator[httpx.Client]:
    """Its server with this file."""
    import xllamacpp

    params: Any = xllamacpp.CommonParams()  # pyright: ignore[reportAttributeAccessIssue]
    params.model.path, params.n_ctx, params.verbosity, params.warmup = str(path), 128, -1, False
    params.n_parallel, params.use_jinja = 1, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # else they wait for each other on a busy machine
    server: Any = xllamacpp.Server(params)  # pyright: ignore[reportAttributeAccessIssue]
    with httpx.Client(base_url=server.listening_address, timeout=60) as client:
        yield client


def differences(model: Any, told: Reading) -> list[float]:
    """Of its log-probabilities from those that llama.cpp tells."""
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPT + told.best])).logits[0, len(PROMPT) - 1 : -1]
    own = logits.float().log_softmax(-1).gather(1, torch.tensor(told.best)[:, None])[:, 0].tolist()
    return [abs(one - other) for one, other in zip(own, told.logprobs, strict=True) if other is not None]


def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Of the model, of what is made of its file, and the file."""
    (tmp_path / "model").mkdir()
    (tmp_path / "made").mkdir()
    return tmp_path / "model", tmp_path / "made", tmp_path / "model.gguf"


@pytest.mark.parametrize("architecture", CASES)
def test_llama_cpp_answers_from_the_files_of_these_tests_as_transformers(architecture: str, tmp_path: Path) -> None:
    folder, _, file = folders(tmp_path)
    family, changes, _ = CASES[architecture]
    reference = FAMILIES[family].write(folder, **changes)
    write_gguf(folder, reference, architecture, file)
    with llama_cpp(file) as client:
        found = differences(reference, _greedy(client, PROMPT))
    assert len(found) > 1 and max(found) < 0.03  # llama.cpp keeps keys and values as halves


@pytest.mark.parametrize("architecture", CASES)
def test_a_quantised_file_is_read_as_the_numbers_that_it_holds(architecture: str, tmp_path: Path) -> None:
    folder, made, file = folders(tmp_path)
    family, changes, _ = CASES[architecture]
    reference = FAMILIES[family].write(folder, **changes, **WIDE)
    write_gguf(folder, reference, architecture, file, kinds=KINDS)
    assert convert(file, made) == "apache-2.0"
    read = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    for name, tensor in read.state_dict().items():
        assert torch.equal(tensor, reference.state_dict()[name]), name
    with torch.inference_mode():
        expected = reference(torch.tensor([PROMPT])).logits[0]
        torch.testing.assert_close(read(torch.tensor([PROMPT])).logits[0], expected)
    engine = make_model(made, torch.float32)
    logits = engine.logits(engine.prefill([Run(PROMPT, 0, [3, 1, 0, 2], None)]))
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-4)  # fp32 sums in another order
    text = "A model's 123 parts.\n\n  <|im_end|>"
    ids = [AutoTokenizer.from_pretrained(where).encode(text) for where in (folder, made)]
    assert ids[0] == ids[1]


PIECES = ["th", "he", "in", "er", "the", "an", "ing", "\u2581the", "\u2581an", "other", "\u2581\u2581", "ther", "oth"]


@pytest.mark.parametrize("begins", [True, False])
def test_sentence_piece_cuts_as_llama_cpp_does(begins: bool, tmp_path: Path) -> None:
    folder, made, file = folders(tmp_path)
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = ["\u2581", *"abcdefghijklmnopqrstuvwxyz0123456789.,\n"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES, *letters]

    def add_tokenizer(writer: gguf.GGUFWriter, _: Path) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * 260 + [-float(rank) for rank in range(len(tokens) - 260)])
        writer.add_token_types([3, 3, 3, 2, *[6] * 256, *[1] * (len(tokens) - 260)])
        writer.add_pad_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_bos_token_id(2)
        writer.add_unk_token_id(3)
        writer.add_add_space_prefix(begins)
        writer.add_add_bos_token(False)

    reference = FAMILIES["gemma 3"].write(folder, **CASES["gemma3"][1])
    reference.resize_token_embeddings(len(tokens))
    write_gguf(folder, reference, "gemma3", file, add_tokenizer=add_tokenizer)
    convert(file, made)
    tokenizer = AutoTokenizer.from_pretrained(made)
    text = "the other thing  in an\n\nether é 漢 the 10.5"
    with llama_cpp(file) as client:
        expected = client.post("/tokenize", json={"content": text}).json()["tokens"]
    assert tokenizer.encode(text, add_special_tokens=False) == expected
    assert tokenizer.decode(expected) == text


def test_a_rotary_embedding_of_another_rule_than_llama_3s_is_refused() -> None:
    factors = llama3_factors(LLAMA3)
    found = _llama3(factors, LLAMA3["rope_theta"], "it")
    assert {**found, "rope_theta": LLAMA3["rope_theta"]} == LLAMA3
    assert _llama3(np.ones(8, np.float32), 10000.0, "it") == {}
    with pytest.raises(UnsupportedGGUF, match="not of Llama 3's rule"):
        _llama3(factors * np.linspace(1, 1.5, 8, dtype=np.float32), LLAMA3["rope_theta"], "it")


def test_programs_elsewhere_render_a_template_with_thoughts_as_it_is_here(tmp_path: Path) -> None:
    """What an export is proven with: no thought is asked for."""
    folder, _, file = folders(tmp_path)
    family, changes, _ = CASES["qwen3"]
    reference = FAMILIES[family].write(folder, **changes)
    (folder / "chat_template.jinja").write_text((Path(datasets.__file__).parent / "qwen3.jinja").read_text())
    write_gguf(folder, reference, "qwen3", file)
    messages: list[Message] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    ids = Renderer.from_dir(folder).prompt_ids(messages)
    assert _render(folder, [(messages, ids)]) == [(ids, ids)]
    with llama_cpp(file) as client:
        assert _as_rendered(client, messages) == ids


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedGGUF, match="'mamba'; these are read from GGUF: gemma3"):
        convert(tmp_path / "model.gguf", tmp_path)
