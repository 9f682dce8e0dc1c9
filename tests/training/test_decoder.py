"""The trainer's own decoder against transformers', and which models and adapters it takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from tests.training.conftest import assert_grads_equal, grads
from tunery.modeling.adapter_config import LINEAR_MODULES, LoraConfig
from tunery.modeling.decoder import Decoder
from tunery.modeling.layer_memory import Kept
from tunery.modeling.transformers_decoder import TransformersDecoder
from tunery.training.inputs import pack
from tunery.training.losses import weighted_nll
from tunery.training.model import TrainModel
from tunery.training.packing import Row

SHAPE: dict[str, Any] = {
    "vocab_size": 256, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "initializer_range": 0.1,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
OWN = {
    "llama, one matrix for embedding and head": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama3 rope, biases": LlamaConfig(**SHAPE, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True),
    "linear rope": LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2 biases": Qwen2Config(**SHAPE),
}
LEFT_TO_TRANSFORMERS = {
    "a sliding window": MistralConfig(**SHAPE, sliding_window=64),
    "norms of queries and keys": Qwen3Config(**SHAPE),
    "a rope of another type": LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    ),
}
LORA = LoraConfig(rank=4, alpha=8)


def saved(config: PreTrainedConfig, folder: Path) -> Path:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # biases and norms are born as zeros and ones, which prove nothing
        parameter.data += torch.randn_like(parameter) * 0.02
    model.save_pretrained(folder)
    return folder


def load(folder: Path, lora: LoraConfig = LORA, *, fused: bool = True) -> TrainModel:
    model = TrainModel.load(folder, lora, seed=1, device="cpu", dtype=torch.float32, fused=fused)
    generator = torch.Generator().manual_seed(2)
    for layer in model.layers.values():
        with torch.no_grad():
            layer.lora_B.normal_(std=0.05, generator=generator)
        layer.refresh()
    return model


def loss_and_grads(model: TrainModel, rows: list[Row]) -> tuple[float, list[torch.Tensor]]:
    inputs = pack(rows, model.shape)
    loss = weighted_nll(model.hidden(inputs), model.head, inputs.labels, inputs.weights).nll_sum
    loss.backward()
    return float(loss.detach()), grads(model)


@pytest.mark.parametrize("name", OWN)
def test_it_equals_transformers(name: str, rows: list[Row], tmp_path: Path) -> None:
    folder = saved(OWN[name], tmp_path)
    own, theirs = load(folder), load(folder, fused=False)
    assert isinstance(own.body, Decoder) and isinstance(theirs.body, TransformersDecoder)
    assert list(own.layers) == list(theirs.layers)
    mine, expected = loss_and_grads(own, rows), loss_and_grads(theirs, rows)
    assert mine[0] == pytest.approx(expected[0], rel=1e-5)
    assert_grads_equal(mine[1], expected[1], 2e-5)
    with torch.no_grad():
        inputs = pack(rows, own.shape)
        torch.testing.assert_close(own.hidden(inputs), theirs.hidden(inputs), rtol=1e-4, atol=1e-4)


def test_a_token_that_predicts_for_several_rows_is_computed_for_each(rows: list[Row], tmp_path: Path) -> None:
    inputs = pack(rows, load(saved(OWN["mistral"], tmp_path)).shape)
    assert len(inputs.predictors.unique()) < len(inputs.predictors)  # so that the test above tests it


@pytest.mark.parametrize("name", LEFT_TO_TRANSFORMERS)
def test_other_models_are_left_to_transformers(name: str, rows: list[Row], tmp_path: Path) -> None:
    model = load(saved(LEFT_TO_TRANSFORMERS[name], tmp_path))
    assert isinstance(model.body, TransformersDecoder)
    if name != "a sliding window":  # the rows are longer than it
        assert loss_and_grads(model, rows)[0] > 0


@pytest.mark.parametrize("lora", [LoraConfig(dropout=0.1), LoraConfig(target_modules=LINEAR_MODULES[:2])])
def test_other_adapters_are_left_to_transformers(lora: LoraConfig, tmp_path: Path) -> None:
    assert isinstance(load(saved(OWN["mistral"], tmp_path), lora).body, TransformersDecoder)


def test_a_backward_after_another_forward_is_an_error_and_no_wrong_gradient(rows: list[Row], tmp_path: Path) -> None:
    model = load(saved(OWN["mistral"], tmp_path))
    inputs = pack(rows, model.shape)
    first = model.hidden(inputs).sum()
    model.hidden(inputs)
    with pytest.raises(RuntimeError, match="Another forward pass"):
        first.backward()


def test_kept_memory_grows_and_is_used_again() -> None:
    kept = Kept()
    kept.begin()
    parts = [kept.take((1000, 33), torch.bfloat16) for _ in range(3)]
    for number, part in enumerate(parts):
        part.fill_(number)
    huge = kept.take((70, 1024, 1024), torch.uint8)  # more than a chunk
    assert [int(part.sum() / part.numel()) for part in parts] == [0, 1, 2]
    places = [tensor.data_ptr() for tensor in (*parts, huge)]
    assert len(set(places)) == 4 and all(place % 64 == 0 for place in places)
    kept.begin()
    again = [kept.take((1000, 33), torch.bfloat16) for _ in range(3)]
    assert [tensor.data_ptr() for tensor in again] == places[:3]
