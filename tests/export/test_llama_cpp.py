"""GGUF files answer in llama.cpp as the engine does, with the template and the stop tokens they were given."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.export.conftest import Change
from tests.tiny_model import CHATML
from tunery.domain.errors import InvalidRequest
from tunery.export import llama_cpp, lora_gguf, proof, write
from tunery.export.proof import places_of
from tunery.export.tensors import StoredTensor
from tunery.models.config import read_config


def quiet(what: str, done: int, total: int | None) -> None:
    pass


@pytest.mark.parametrize("type", ["f16", "bf16", "q8_0", "q4_k_m"])
def test_a_file_answers_in_llama_cpp_as_the_model_does_here(type: str, changed: Change, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    report = write.export(changed(format="ollama", type=type), out, quiet)
    told = report["proof"]
    assert told["program"].startswith("llama.cpp")
    assert told["num_tokens"] > 40
    assert told["num_same_templates"] == told["num_templates"] == 4
    if type == "f16":
        assert told["num_same_tokens"] == told["num_tokens"]
    assert {path.name for path in out.iterdir()} == {"model.gguf", "Modelfile", "export.json", "README.md"}
    fields = gguf.GGUFReader(out / "model.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == CHATML
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2
    modelfile = (out / "Modelfile").read_text()
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert "PARAMETER num_ctx 2048" in modelfile


def base_with(folder: Path, given: Path, kind: str) -> Path:
    """The tiny tokenizer under another architecture."""
    folder.mkdir()
    sizes = {
        "vocab_size": 262, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 2, "initializer_range": 0.1,
    }  # fmt: skip
    stretched = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = {
            "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**sizes)),
            "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=16)),
            "llama3": lambda: LlamaForCausalLM(LlamaConfig(**sizes, head_dim=16, rope_parameters=stretched)),
            "linear": lambda: LlamaForCausalLM(
                LlamaConfig(
                    **sizes, head_dim=16, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
                )
            ),
        }[kind]()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(given / name, folder)
    return folder


def test_an_adapter_alone_answers_beside_its_base_in_llama_cpp(changed: Change, tmp_path: Path) -> None:
    """And not without it: the proof sees the difference."""
    out = tmp_path / "out"
    out.mkdir()
    report = write.export(changed(format="gguf", lora=True), out, quiet)
    assert report["lora"] and report["proof"]["agrees"]
    assert report["proof"]["num_same_tokens"] == report["proof"]["num_tokens"] > 40
    assert {path.name for path in out.iterdir()} == {"lora.gguf", "export.json", "README.md"}
    assert "--lora lora.gguf" in (out / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.jsonl"]
    spec = changed(format="gguf", lora=True)
    adapter = write.read_fitting(spec.adapter_dir, read_config(spec.model_dir))  # type: ignore[arg-type]
    weaker = replace(adapter, config=replace(adapter.config, alpha=adapter.config.alpha / 100))
    lora_gguf.write_lora(weaker, read_config(spec.model_dir), out / "lora.gguf", "x")
    assert not proof.prove(spec, out).agrees


def test_q4_k_m_rounds_as_llama_cpp_does(tiny_model_dir: Path) -> None:
    """What its own reader of these kinds reads back; and more bits where its rule has them."""
    values = np.random.default_rng(0).normal(size=(6, 512)).astype(np.float32)
    kind = gguf.GGMLQuantizationType
    for chosen, most in ((kind.Q4_K, 0.2), (kind.Q6_K, 0.1), (kind.Q5_0, 0.2), (kind.Q8_0, 0.02)):
        stored = llama_cpp._quantize_k(values, chosen)
        assert 0 < np.abs(gguf.quants.dequantize(stored, chosen) - values).max() < most
        np.testing.assert_array_equal(
            stored, np.concatenate([llama_cpp._quantize_k(row, chosen)[None] for row in values])
        )
    config = replace(read_config(tiny_model_dir), num_layers=32, tie_word_embeddings=False)

    def kinds(name: str, width: int = 512) -> list[gguf.GGMLQuantizationType]:
        names = [name.format(layer) for layer in range(32)] if "{" in name else [name]
        tensors = [StoredTensor(each, Path(), (6, width), "F32", 0) for each in names]
        return [llama_cpp._kind_of(each, kind.Q4_K, config) for each in tensors]

    more = [layer for layer, each in enumerate(kinds("model.layers.{}.mlp.down_proj.weight")) if each is kind.Q6_K]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert {*kinds("model.layers.{}.mlp.up_proj.weight")} == {kind.Q4_K}
    assert kinds("lm_head.weight") == [kind.Q6_K]
    assert kinds("model.embed_tokens.weight") == [kind.Q4_K]
    assert kinds("model.embed_tokens.weight", 576) == [kind.Q5_0]
    assert kinds("lm_head.weight", 576) == [kind.Q8_0]
    assert kinds("lm_head.weight", 100) == [kind.F16]


@pytest.mark.parametrize(
    ("told", "tokens", "places"),
    [
        ([1, 2, 3], [1, 2, 3], [0, 1, 2]),
        ([2], [1, 2, 3], [None, 0, None]),
        ([7, 3], [7, 7, 3], [None, None, 1]),  # either of the first two
        ([7, 7, 3], [7, 7, 3], [0, 1, 2]),
        ([1, 7, 2], [1, 7, 7, 2, 7], [0, None, None, 2, None]),
        ([], [1, 1], [None, None]),
    ],
)
def test_a_likelihood_is_given_to_the_one_token_that_it_can_be_of(
    told: list[int], tokens: list[int], places: list[int | None]
) -> None:
    """llama.cpp tells none for a token that ends within a character, and answers may repeat such tokens."""
    assert places_of(told, tokens) == places


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama3", "linear"])
def test_each_architecture_is_written_as_llama_cpp_computes_it(
    kind: str, changed: Change, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Biases, norms of heads, untied heads, and slowed rotations."""
    base = base_with(tmp_path / "base", tiny_model_dir, kind)
    (tmp_path / "out").mkdir()
    spec = changed(format="gguf", model_dir=base, adapter_dir=None)
    assert write.export(spec, tmp_path / "out", quiet)["proof"]["agrees"]


def test_a_tokenizer_without_a_name_in_llama_cpp_is_refused(
    changed: Change, tiny_model_dir: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model_dir, base)
    document = json.loads((base / "tokenizer.json").read_text())
    document["pre_tokenizer"] = {"type": "Whitespace"}
    (base / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(InvalidRequest, match="not known here"):
        llama_cpp.write_gguf(changed(format="gguf", model_dir=base), None, tmp_path, quiet)
