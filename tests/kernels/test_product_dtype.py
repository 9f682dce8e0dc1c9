import pytest
import torch

from tunery.kernels import matmul_dtype as module
from tunery.kernels.matmul_dtype import product_dtype


@pytest.mark.parametrize(
    ("narrow_s", "wide_s", "chosen"),
    [(1.0, 3.0, torch.bfloat16), (1.2, 1.0, torch.bfloat16), (1.4, 1.0, torch.float32)],
)
def test_bfloat16_weights_are_multiplied_in_what_is_clearly_faster(
    narrow_s: float, wide_s: float, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Timed:
        def __init__(self, dtype: torch.dtype) -> None:
            self.best_s = narrow_s if dtype is torch.bfloat16 else wide_s

        def run(self) -> None:
            pass

    monkeypatch.setattr(module, "_Trial", Timed)
    assert product_dtype(torch.bfloat16, "cpu") is chosen


def test_this_machine_answers_and_other_weights_are_left_alone() -> None:
    assert product_dtype(torch.bfloat16, "cpu") in (torch.bfloat16, torch.float32)
    assert product_dtype(torch.bfloat16, "cuda") is torch.bfloat16
    assert product_dtype(torch.float32, "cpu") is torch.float32
