"""The adapter and its training against PEFT and transformers, the plain way."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from tests.training.conftest import MakeModel
from tunery.models.adapter_config import LoraConfig, UnsupportedAdapter
from tunery.models.adapter_files import AdapterFiles, read_adapter, write_adapter
from tunery.training.forward.inputs import pack
from tunery.training.forward.lora import matrices_of, set_adapter
from tunery.training.forward.packing import Row
from tunery.training.losses import weighted_nll

CONFIG = LoraConfig(rank=4, alpha=8)


def test_peft_loads_our_adapter_with_equal_logits(
    make_model: MakeModel, rows: list[Row], tiny_model_dir: Path, tmp_path: Path
) -> None:
    ours = make_model()
    write_adapter(tmp_path, AdapterFiles(CONFIG, matrices_of(ours.layers)), str(tiny_model_dir))
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    ours.train(False)
    for row in rows[:3]:
        everywhere = Row(row.token_ids, [1.0] * len(row.token_ids))
        with torch.no_grad():
            logits = ours.hidden(pack([everywhere], ours.shape)) @ ours.head.weight.t()
            expected = theirs(input_ids=torch.tensor([row.token_ids])).logits[0, :-1]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_comes_back_as_it_was_saved(make_model: MakeModel, tmp_path: Path) -> None:
    one, two = make_model(), make_model(blank=True)
    write_adapter(tmp_path, AdapterFiles(CONFIG, matrices_of(one.layers)), "base")
    assert LoraConfig.load(tmp_path) == LoraConfig(rank=4, alpha=8, target_modules=tuple(sorted(CONFIG.target_modules)))
    set_adapter(two.layers, read_adapter(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_an_adapter_of_another_shape_is_refused(make_model: MakeModel, tiny_model_dir: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    get_peft_model(base, PeftConfig(r=2, target_modules="all-linear")).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedAdapter, match="does not fit"):
        set_adapter(make_model().layers, read_adapter(tmp_path))
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace('"use_dora": false', '"use_dora": true'))
    with pytest.raises(UnsupportedAdapter, match="use_dora"):
        LoraConfig.load(tmp_path)


def test_loss_and_gradients_equal_a_padded_transformers_and_peft_loop(
    make_model: MakeModel, rows: list[Row], tiny_model_dir: Path, tmp_path: Path
) -> None:
    ours = make_model()
    write_adapter(tmp_path, AdapterFiles(CONFIG, matrices_of(ours.layers)), str(tiny_model_dir))
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, str(tmp_path), is_trainable=True)

    length = max(len(row.token_ids) for row in rows)
    token_ids = torch.tensor([row.token_ids + [2] * (length - len(row.token_ids)) for row in rows])
    mask = torch.tensor([[1] * len(row.token_ids) + [0] * (length - len(row.token_ids)) for row in rows])
    weights = torch.tensor([row.loss_weights + [0.0] * (length - len(row.loss_weights)) for row in rows])[:, 1:]
    logits = theirs(input_ids=token_ids, attention_mask=mask).logits[:, :-1]
    nll = F.cross_entropy(logits.transpose(1, 2), token_ids[:, 1:], reduction="none")
    expected = (nll * weights).sum() / weights.sum()
    expected.backward()

    inputs = pack(rows, ours.shape)
    loss = weighted_nll(ours.hidden(inputs), ours.head, inputs.labels, inputs.weights).nll_sum / inputs.weights.sum()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    modules = dict(theirs.base_model.model.named_modules())
    for name, layer in ours.layers.items():
        for mine, half in ((layer.lora_A, modules[name].lora_A), (layer.lora_B, modules[name].lora_B)):
            grad = half["default"].weight.grad
            torch.testing.assert_close(mine.grad, grad, rtol=1e-3, atol=1e-5 * float(grad.abs().max()) + 1e-8)
