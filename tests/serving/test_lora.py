"""Adapters in a pass that mixes them: the loop over rows and the products of long runs against the formula."""

from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.serving.peft_adapters import write_adapter
from tests.serving.test_forward import make_model
from tunery.kernels.compile import Array, as_array, as_tensor
from tunery.serving.forward.adapters import load_adapter, places_of
from tunery.serving.forward.linear import PackedLinear, Precision, shared
from tunery.serving.forward.lora import Lora

LAYER, QKV = 1, 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("long_run", [1, 4, inf])
def test_each_row_gets_its_own_adapter(
    tiny_model_dir: Path, tmp_path: Path, dtype: torch.dtype, long_run: float
) -> None:
    config = make_model(tiny_model_dir, dtype).config
    places = places_of(config)
    folders = [
        write_adapter(tiny_model_dir, tmp_path / str(rank), rank=rank, modules=modules, seed=rank)
        for rank, modules in ((4, ["q_proj", "v_proj"]), (2, ["q_proj", "k_proj", "v_proj"]))
    ]
    one, other = (load_adapter(folder, places, dtype) for folder in folders)
    runs = [(one, 2), (one, 3), (None, 2), (other, 1), (one, 1)]  # the first two are one run of five
    lora = Lora(places, torch.float32).over(runs, long_run=long_run)
    assert lora is not None
    torch.manual_seed(0)
    num_rows, width = sum(rows for _, rows in runs), lora.columns[QKV][-1]
    x, expected = torch.randn(num_rows, config.hidden_size).to(dtype), torch.zeros(num_rows, width)
    first = 0
    for adapter, rows in runs:
        for part in adapter.parts[LAYER, QKV] if adapter else ():
            own = expected[first : first + rows, part.column : part.column + part.b.shape[1]]
            own += x[first : first + rows].float() @ part.a.float().t() @ part.b.float()
        first += rows
    y = as_tensor(lora(shared(x), LAYER, QKV))
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    assert torch.allclose(y.float(), expected, rtol=tolerance, atol=tolerance)
    assert not y[5:7].any()
    assert y[:5].any()


def test_a_pass_without_adapters_is_none(tiny_model_dir: Path) -> None:
    config = make_model(tiny_model_dir, torch.float32).config
    assert Lora(places_of(config), torch.float32).over([(None, 3), (None, 1)]) is None


@pytest.mark.parametrize("way", ["exact", "prompt", "decode"])
@pytest.mark.parametrize("precision", ["full", "8bit", "4bit"])
@pytest.mark.parametrize("step", [0.001, 0.0003, 0.01])
def test_an_adapter_that_has_learned_little_is_not_rounded_away(way: str, precision: Precision, step: float) -> None:
    """The steps of bfloat16 are 0.008 between 1 and 2: most of what an adapter adds after its first step of training is
    less than half of that. Sums that are rounded once keep it on average."""
    torch.manual_seed(0)
    rows, width = (4, 8192) if precision == "4bit" else (64, 512)  # 4 bits are for few rows
    weight, x = torch.randn(width, 256).bfloat16() / 16, torch.randn(rows, 256).bfloat16()
    linear = PackedLinear(weight, torch.randn(width).bfloat16(), precision=precision)
    plus = as_array(torch.full((rows, width), step).bfloat16())

    def result(plus: Array | None) -> torch.Tensor:
        if way == "exact":
            return linear.exact(x, plus).float()
        if way == "prompt":
            return linear.prompt(x, plus).float()
        y = linear(shared(x), plus=plus)
        return as_tensor(y).float()

    without = result(np.zeros_like(plus))
    added = (result(plus.copy()) - without).mean().item()
    assert added == pytest.approx(as_tensor(plus)[0, 0].item(), rel=0.1)
    assert precision == "4bit" or torch.equal(without, result(None))
