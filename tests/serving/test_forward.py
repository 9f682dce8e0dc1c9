"""The arithmetic itself: packed weights against plain ones. What is held against transformers: tests/models."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tunery.domain.errors import InvalidRequest
from tunery.kernels import int8 as eight_bit
from tunery.kernels.int8 import group_steps
from tunery.models.config import read_config
from tunery.serving import build
from tunery.serving.forward.kv import KeyValueCache
from tunery.serving.forward.linear import FOUR_BIT_ROWS, PackedLinear, Precision, loses_nothing, shared
from tunery.serving.forward.model import Model, Run
from tunery.serving.forward.weights import load_weights

needs_bytes = pytest.mark.skipif(not eight_bit.is_available(), reason="this processor does not multiply bytes")


def make_model(folder: Path, dtype: torch.dtype, *, precision: Precision | None = "full") -> Model:
    config = read_config(folder)
    weights = load_weights(folder, config, dtype, precision=precision)
    return Model(config, weights, KeyValueCache(config, 32, 16, dtype))


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_rows_of_a_decode_batch_do_not_see_each_other(tiny_model_dir: Path, batch: int) -> None:
    """Two and three rows take different kernels of attention."""
    model = make_model(tiny_model_dir, torch.float32)
    runs = []
    for row in range(batch):
        table = [row * 4 + block for block in range(4)]
        model.prefill([Run([row + 5] * (5 + 8 * row), 0, table, None)])
        runs.append(Run([9], 5 + 8 * row, table, None))
    together = model.decode(runs)

    for row, run in enumerate(runs):
        assert torch.allclose(model.decode([run])[0], together[row], atol=1e-4)


def four_bit_weight(out_features: int, in_features: int) -> torch.Tensor:
    """bfloat16 weights as a Q4_1 file holds them: every group has steps 0 and 15."""
    groups = torch.randint(0, 16, (out_features, in_features // 32, 32)).float()
    groups[..., 0], groups[..., 1] = 0, 15
    scale = torch.rand(out_features, in_features // 32, 1) * 0.01 + 0.001
    low = -8 * scale * (1 + torch.rand_like(scale) * 0.1)
    return (groups * scale + low).view(out_features, in_features).to(torch.bfloat16)


def test_four_bit_weights_are_recovered_and_others_are_not_taken_for_them() -> None:
    torch.manual_seed(0)
    weight = four_bit_weight(64, 128)
    steps, scale, low = group_steps(weight, 15)
    recovered = (steps.view(64, 4, 32) * scale.unsqueeze(-1) + low.unsqueeze(-1)).view(64, 128)

    assert (recovered - weight.float()).norm() < 0.003 * weight.float().norm()
    assert loses_nothing(weight)
    assert not loses_nothing((torch.randn(64, 128) * 0.02).to(torch.bfloat16))
    assert not loses_nothing(weight.float())


def test_four_bits_of_few_rows_agree_with_the_exact_product() -> None:
    torch.manual_seed(0)
    weight = four_bit_weight(64, 128)
    packed = PackedLinear(weight, torch.randn(64).to(torch.bfloat16), precision="4bit")
    for rows in (FOUR_BIT_ROWS, FOUR_BIT_ROWS + 1):
        x = torch.randn(rows, 128).to(torch.bfloat16)
        few, exact = torch.from_numpy(packed(shared(x), np.float32)), packed.exact(x).float()
        assert (few - exact).norm() < 0.02 * exact.norm()  # both round to 8 bits
        assert torch.equal(packed.prompt(x).float(), exact)  # however few its rows


@needs_bytes
def test_widened_products_are_the_exact_ones_rounded() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(64, 128).bfloat16(), torch.randn(64).bfloat16()
    x = torch.randn(40, 128).bfloat16()
    wide = PackedLinear(weight, bias, precision="8bit", matmul_dtype=torch.float32).exact(x)

    expected = torch.nn.functional.linear(x.float(), weight.float(), bias.float()).bfloat16()
    assert torch.equal(wide, expected)


@pytest.mark.parametrize("precision", ["8bit", "4bit"])
def test_smaller_weights_move_the_real_models_loss_by_less_than_half_a_percent(
    base_model_dir: Path, precision: Precision
) -> None:
    from tunery.chat.render import Renderer

    if precision == "8bit" and not eight_bit.is_available():
        pytest.skip("this processor does not multiply bytes")
    text = "The harbour was quiet that morning. A few boats came back with fish, and the market opened at nine o'clock."
    ids = Renderer.from_dir(base_model_dir).encode(text * 2)
    losses = []
    # Against float32: some processors round bfloat16 products so that they alone move this loss by 0.2 %.
    for weights, dtype in ((precision, torch.bfloat16), ("full", torch.float32)):
        model = make_model(base_model_dir, dtype, precision=weights)
        logits = torch.cat([model.decode([Run([token], i, list(range(8)), None)]) for i, token in enumerate(ids)])
        losses.append(float(torch.nn.functional.cross_entropy(logits[:-1].float(), torch.tensor(ids[1:]))))

    assert losses[0] == pytest.approx(losses[1], rel=0.005)


@needs_bytes
def test_prompts_use_bytes_unless_they_are_to_be_exact(base_model_dir: Path) -> None:
    ids, table = list(range(300, 340)), list(range(8))
    by_bytes = make_model(base_model_dir, torch.bfloat16, precision="8bit")
    plain = by_bytes.prefill([Run(ids, 0, table, None)]).float()
    exact = by_bytes.prefill([Run(ids, 0, table, None)], exact=True).float()
    reference = make_model(base_model_dir, torch.float32).prefill([Run(ids, 0, table, None)])

    def distance(hidden: torch.Tensor) -> float:
        return float((hidden - reference).norm() / reference.norm())

    assert distance(exact) < distance(plain) < 0.1


@pytest.mark.parametrize("has_int8", [True, False])
def test_the_type_is_chosen_by_what_the_processor_is_fast_at(has_int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eight_bit, "is_available", lambda: has_int8)
    for matmul_dtype in (torch.bfloat16, torch.float32):
        monkeypatch.setattr(build, "choose_matmul_dtype", lambda dtype, device, matmul_dtype=matmul_dtype: matmul_dtype)
        assert build.choose_dtype("auto") is (torch.bfloat16 if has_int8 else matmul_dtype)
    assert build.choose_dtype("float32") is torch.float32


def test_the_precision_is_chosen_by_the_processor_and_the_weights(
    base_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_model(base_model_dir, torch.float32, precision=None).weights.precision == "full"
    for has_int8, chosen in ((True, "8bit"), (False, "4bit")):
        monkeypatch.setattr(eight_bit, "is_available", lambda has_int8=has_int8: has_int8)
        assert make_model(base_model_dir, torch.bfloat16, precision=None).weights.precision == chosen
    with pytest.raises(InvalidRequest, match="does not multiply bytes"):
        make_model(base_model_dir, torch.bfloat16, precision="8bit")


def test_unknown_architectures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InvalidRequest, match="'gpt2'"):
        read_config(tmp_path)
