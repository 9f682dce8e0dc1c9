"""The trainer's own decoder against transformers', and which models and adapters it takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests.random_models import LLAMA3, SHAPE, save_random
from tests.training.conftest import assert_grads_equal, grads
from tunery.models.adapter_config import LINEAR_MODULES, LoraConfig, UnsupportedAdapter
from tunery.models.config import UnsupportedModel
from tunery.training.child import failure_of
from tunery.training.forward.decoder import Decoder, trainable_config
from tunery.training.forward.inputs import pack
from tunery.training.forward.memory import SavedActivations
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packing import Row
from tunery.training.forward.transformers_decoder import TransformersDecoder
from tunery.training.job import NotTrainable, load_model
from tunery.training.losses import weighted_nll
from tunery.training.protocol import TrainSpec

OWN = {
    "llama, one matrix for embedding and head": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama3 rope, biases": LlamaConfig(**SHAPE, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True),
    "linear rope": LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2 biases": Qwen2Config(**SHAPE),
    "a sliding window": MistralConfig(**SHAPE, sliding_window=24),
    "norms of queries and keys": Qwen3Config(**SHAPE),
    "scaled logits": GraniteConfig(**SHAPE, logits_scaling=3.0, residual_multiplier=0.2, attention_multiplier=0.3),
}
LEFT_TO_TRANSFORMERS = {
    "another architecture": Olmo2Config(
        **{key: value for key, value in SHAPE.items() if key != "head_dim"} | {"hidden_size": 64}
    ),
    "a rope of another type": LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    ),
}
LORA = LoraConfig(rank=4, alpha=8)
FEWER, MORE = LINEAR_MODULES[:2], (*LINEAR_MODULES, "lm_head")


def saved(config: PreTrainedConfig, folder: Path) -> Path:
    save_random(config, folder)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, path, {"format": "pt"})


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
    assert loss_and_grads(model, rows)[0] > 0


@pytest.mark.parametrize("lora", [LoraConfig(dropout=0.1), LoraConfig(target_modules=FEWER)])
def test_other_adapters_are_left_to_transformers(lora: LoraConfig, tmp_path: Path) -> None:
    assert isinstance(load(saved(OWN["mistral"], tmp_path), lora).body, TransformersDecoder)


@pytest.mark.parametrize("modules", [MORE, r".*(_proj|head)"])
def test_an_adapter_beside_the_head_is_refused(modules: tuple[str, ...] | str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedAdapter, match="head"):
        load(saved(OWN["mistral"], tmp_path), LoraConfig(target_modules=modules))


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "scales beside the weights": lambda config: config.update(quantization_config={"quant_method": "fp8"}),
    "a size that transformers assumes": lambda config: config.pop("num_key_value_heads"),
    "no norm's epsilon": lambda config: config.pop("rms_norm_eps"),
    "another activation": lambda config: config.update(hidden_act="relu"),
    "a rope for each kind of layer": lambda config: config["rope_parameters"].update(
        full_attention={"rope_theta": 1.0}
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_configuration_that_is_read_otherwise_is_left_to_transformers(name: str, tmp_path: Path) -> None:
    path = saved(OWN["mistral"], tmp_path) / "config.json"
    assert trainable_config(tmp_path, LORA, "cpu") is not None
    config = json.loads(path.read_text())
    CHANGES[name](config)
    path.write_text(json.dumps(config))
    assert trainable_config(tmp_path, LORA, "cpu") is None


def test_tensors_of_another_layout_are_left_to_transformers(rows: list[Row], tmp_path: Path) -> None:
    config = OWN["llama, one matrix for embedding and head"]
    rewrite(saved(config, tmp_path), lambda tensors: {n.removeprefix("model."): t for n, t in tensors.items()})
    model = load(tmp_path)
    assert isinstance(model.body, TransformersDecoder) and loss_and_grads(model, rows)[0] > 0


def test_a_head_of_its_own_beside_a_tied_embedding_counts(rows: list[Row], tmp_path: Path) -> None:
    folder = saved(OWN["llama, one matrix for embedding and head"], tmp_path)
    before = loss_and_grads(load(folder), rows)[0]
    for scale in (1.0, 1.1):
        rewrite(folder, lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"] * scale})  # noqa: B023
        assert (loss_and_grads(load(folder), rows)[0] == before) == (scale == 1.0)


DAMAGES: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "no tensor 'model.norm.weight'": lambda t: {n: v for n, v in t.items() if n != "model.norm.weight"},
    "'model.layers.1.mlp.up_proj.weight' is": lambda t: {**t, "model.layers.1.mlp.up_proj.weight": torch.ones(3, 4)},
    "holds torch.int8": lambda t: {n: v.char() if n.endswith("q_proj.weight") else v for n, v in t.items()},
}


@pytest.mark.parametrize("said", DAMAGES)
def test_damaged_weights_are_refused_by_name(said: str, tmp_path: Path) -> None:
    rewrite(saved(OWN["mistral"], tmp_path), DAMAGES[said])
    spec = TrainSpec("ftjob-1", tmp_path, tmp_path, n_epochs=1, batch_size=1, learning_rate=1e-3, lora=LORA)
    with pytest.raises(NotTrainable, match=said) as caught:
        load_model(spec, "cpu", torch.float32)
    assert failure_of(caught.value).code == "model_not_trainable"
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("said", list(DAMAGES)[:2])
def test_transformers_does_not_make_up_what_is_missing(said: str, tmp_path: Path) -> None:
    rewrite(saved(LEFT_TO_TRANSFORMERS["another architecture"], tmp_path), DAMAGES[said])
    with pytest.raises(UnsupportedModel, match=said):
        load(tmp_path)


@pytest.mark.parametrize("fused", [True, False])
def test_a_missing_bias_is_refused(fused: bool, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    rewrite(saved(OWN["qwen2 biases"], tmp_path), lambda tensors: {n: t for n, t in tensors.items() if n != name})
    with pytest.raises(UnsupportedModel, match=f"no tensor '{name}'"):
        load(tmp_path, fused=fused)


@pytest.mark.parametrize("fused", [True, False])
def test_rows_without_anything_to_learn_give_nothing(fused: bool, rows: list[Row], tmp_path: Path) -> None:
    model = load(saved(OWN["mistral"], tmp_path), fused=fused)
    loss, found = loss_and_grads(model, [Row(row.token_ids, [0.0] * len(row.token_ids)) for row in rows])
    assert loss == 0 and all(float(grad.abs().max()) == 0 for grad in found)


def test_a_backward_after_another_forward_is_an_error_and_no_wrong_gradient(rows: list[Row], tmp_path: Path) -> None:
    model = load(saved(OWN["mistral"], tmp_path))
    inputs = pack(rows, model.shape)
    first = model.hidden(inputs).sum()
    model.hidden(inputs)
    with pytest.raises(RuntimeError, match="Another forward pass"):
        first.backward()
    model.body.recompute(True)
    again = model.hidden(inputs).sum()
    model.body.recompute(False)
    kept = model.hidden(inputs).sum()
    again.backward()  # runs its layers once more, over what the other has kept
    with pytest.raises(RuntimeError, match="Another forward pass"):
        kept.backward()


def test_kept_memory_grows_and_is_used_again() -> None:
    kept = SavedActivations()
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


def test_kept_memory_stays_near_the_largest_pass() -> None:
    """Parts larger than a chunk, in passes that grow: old chunks must not pile up behind new ones."""
    kept = SavedActivations(chunk_bytes=1000)
    for size in range(600, 4000, 40):
        kept.begin()
        for _ in range(10):
            kept.take((size // 10,), torch.uint8)
            kept.take((size,), torch.uint8)
    assert kept.num_bytes < 1.6 * 10 * 1.1 * 4000
    kept.release()
    assert kept.num_bytes == 0
