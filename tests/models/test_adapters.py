"""Adapters of PEFT's own making: trainer and engine compute with them what PEFT does, and refuse the same by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tunery.domain.errors import InvalidRequest
from tunery.models.adapter_config import LoraConfig, UnsupportedAdapter
from tunery.models.adapter_files import AdapterFiles, read_adapter, write_adapter
from tunery.models.config import read_config
from tunery.serving.forward.adapters import load_adapter, places_of
from tunery.serving.forward.kv import KeyValueCache
from tunery.serving.forward.model import Model, Run
from tunery.serving.forward.weights import load_weights
from tunery.training.forward.inputs import pack
from tunery.training.forward.lora import matrices_of, set_adapter
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packing import Row

IDS = list(range(5, 45))
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "a list": {"target_modules": ALL},
    "two modules": {"target_modules": ["q_proj", "down_proj"], "lora_alpha": 5},
    "full names": {"target_modules": ["model.layers.0.self_attn.q_proj", "layers.1.mlp.up_proj"]},
    "all linear layers": {"target_modules": "all-linear"},
    "an expression": {"target_modules": r".*\.self_attn\.(q|v)_proj"},
    "an expression for some layers": {"target_modules": r"model\.layers\.[1-9]\d*\.(self_attn|mlp)\..*_proj"},
    "rank-stabilised": {"target_modules": ALL, "use_rslora": True},
    "ranks by pattern": {"target_modules": ALL, "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 5}},
    "alphas by pattern": {"target_modules": ALL, "alpha_pattern": {r"self_attn\.(q|k)_proj": 3, "down_proj": 40}},
    "all patterns": {
        "target_modules": r".*_proj",
        "use_rslora": True,
        "rank_pattern": {r"^model\.layers\.0\.self_attn\.v_proj": 1, "v_proj": 7, "_proj": 2},
        "alpha_pattern": {r".*mlp.*": 11, "up_proj": 1},
    },
    "some layers": {"target_modules": ALL, "layers_to_transform": [1], "layers_pattern": "layers"},
    "one layer": {"target_modules": ["k_proj"], "layers_to_transform": 0},
    "all but some": {"target_modules": ALL, "exclude_modules": ["layers.0.mlp.gate_proj", "o_proj"]},
    "all but an expression": {"target_modules": "all-linear", "exclude_modules": r".*\.0\.mlp\..*"},
    "begun otherwise": {"target_modules": ALL, "init_lora_weights": "gaussian"},
}


def write(folder: Path, base: Path, **settings: Any) -> PeftModel:
    """An adapter with random weights, as PEFT saves it, and the model that it came from."""
    torch.manual_seed(len(str(settings)))
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(plain, PeftConfig(**{"r": 4, "lora_alpha": 8, **settings}))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.2
    model.save_pretrained(folder)
    return model.eval()


def logits_of(model: PeftModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([IDS])).logits[0]


def served(folder: Path, base: Path) -> torch.Tensor:
    config = read_config(base)
    weights = load_weights(base, config, torch.float32, precision="full")
    model = Model(config, weights, KeyValueCache(config, 8, 16, torch.float32))
    hidden = model.prefill([Run(IDS, 0, [0, 1, 2], model.read_adapter(folder))])
    return model.logits(hidden)


def trainer_with(folder: Path, base: Path, *, fused: bool = True) -> TrainModel:
    adapter = read_adapter(folder)
    model = TrainModel.load(base, adapter.config, seed=3, device="cpu", dtype=torch.float32, fused=fused)
    set_adapter(model.layers, adapter)
    model.train(False)
    return model


def trained(model: TrainModel) -> torch.Tensor:
    """Of all tokens but the last, which predicts nothing."""
    with torch.no_grad():
        return model.hidden(pack([Row(IDS, [1.0] * len(IDS))], model.shape)) @ model.head.weight.t()


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")  # the first that fits counts
@pytest.mark.parametrize("kind", KINDS)
def test_trainer_and_engine_compute_what_peft_computes(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    peft = write(tmp_path / "given", tiny_model_dir, **KINDS[kind])
    expected = logits_of(peft)
    with peft.disable_adapter():
        base = logits_of(peft)
    assert not torch.allclose(expected, base, atol=0.05), "the adapter does nothing: this would prove nothing"

    close(served(tmp_path / "given", tiny_model_dir), expected)
    ours = trainer_with(tmp_path / "given", tiny_model_dir)
    close(trained(ours), expected[:-1])
    close(trained(trainer_with(tmp_path / "given", tiny_model_dir, fused=False)), expected[:-1])

    # What a job that goes on from it writes is the same adapter to PEFT and to the engine.
    saved = tmp_path / "saved"
    saved.mkdir()
    write_adapter(saved, AdapterFiles(read_adapter(tmp_path / "given").config, matrices_of(ours.layers)), "base")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32), saved)
    close(logits_of(again.eval()), expected)
    close(served(saved, tiny_model_dir), expected)


def changed(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        held = load_file(path)
        change(held)
        save_file(held, path)

    return rewrite


FIRST = "base_model.model.model.layers.0.self_attn.q_proj"
HEAD = "base_model.model.lm_head"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "use_dora": (changed(use_dora=True), "use_dora"),
    "modules_to_save": (changed(modules_to_save=["lm_head"]), "modules_to_save"),
    "bias": (changed(bias="lora_only"), "bias"),
    "lora_bias": (changed(lora_bias=True), "lora_bias"),
    "fan_in_fan_out": (changed(fan_in_fan_out=True), "fan_in_fan_out"),
    "trainable_token_indices": (changed(trainable_token_indices=[1, 2]), "trainable_token_indices"),
    "target_parameters": (changed(target_parameters=["experts"]), "target_parameters"),
    "layer_replication": (changed(layer_replication=[[0, 2]]), "layer_replication"),
    "alora": (changed(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
    "what PEFT may learn": (changed(use_something_new=True), "use_something_new"),
    "another type": (changed(peft_type="LOHA"), "LOHA"),
    "PiSSA": (changed(init_lora_weights="pissa_niter_4"), "pissa_niter_4"),
    "another count of layers": (changed(layers_to_transform=[0], layers_pattern="blocks"), "blocks"),
    "a broken expression": (changed(target_modules="(q_proj"), r"\(q_proj"),
    "look-around": (changed(target_modules=r".*(?<!k)_proj"), "look-around"),
    "a broken pattern": (changed(alpha_pattern={"[": 4}), r"'.*\[.*'"),
    "no rank": (changed(r=0), "rank"),
    "a rank of another kind": (changed(r="many"), "many"),
    "another rank": (changed(rank_pattern={"q_proj": 9}), "rank 9"),
    "weights beside the targets": (changed(target_modules=["q_proj"]), "target_modules"),
    "no weights for a target": (
        tensors(lambda held: [held.pop(f"{FIRST}.lora_{half}.weight") for half in "AB"]),
        "q_proj",
    ),
    "half a pair": (tensors(lambda held: held.pop(f"{FIRST}.lora_A.weight")), "q_proj"),
    "the embedding": (
        tensors(lambda held: held.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 8)})),
        "embed_tokens.lora_embedding_A",
    ),
    "the head": (
        tensors(
            lambda held: held.update({f"base_model.model.lm_head.lora_{h}.weight": torch.ones(4, 4) for h in "AB"})
        ),
        "lm_head",
    ),
    "integers": (tensors(lambda held: held.update({f"{FIRST}.lora_A.weight": torch.ones(4, 4).int()})), "q_proj"),
    "another base": (tensors(lambda held: held.update({f"{FIRST}.lora_A.weight": torch.ones(4, 7)})), "another base"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "given"),
    "no object": (lambda folder: (folder / "adapter_config.json").write_text("[1]"), "given"),
    "damaged weights": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"no"), "given"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "given"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_trainer_and_engine_refuse_the_same_by_name(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    change, named = REFUSED[kind]
    folder = tmp_path / "given"
    write(folder, tiny_model_dir, target_modules=ALL)
    change(folder)
    with pytest.raises(UnsupportedAdapter, match=named):
        trainer_with(folder, tiny_model_dir)
    with pytest.raises(InvalidRequest, match=named):
        load_adapter(folder, places_of(read_config(tiny_model_dir)), torch.float32)


@pytest.mark.timeout(60)
def test_an_expression_that_would_backtrack_takes_no_time() -> None:
    config = LoraConfig(target_modules=r"(([a-z_.0-9]+)+)+!", alpha_pattern={r"(.*)*(.*)*x{5,}": 1.0})
    assert not config.targets("model.layers.0." + "self_attn." * 500 + "q_proj")
    assert config.scaling_of("model.layers.0." + "self_attn." * 500 + "q_proj") == 2.0
