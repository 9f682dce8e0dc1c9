"""The choice between the types, by a clock that advances with what is multiplied."""

import pytest
import torch

from tunery.kernels import matmul_dtype as module
from tunery.kernels.matmul_dtype import choose_matmul_dtype


class Machine:
    """Takes so long for a product of each type, and at times ten times as long, because of other work."""

    def __init__(self, narrow_s: float, wide_s: float, disturbed: set[int]) -> None:
        self.cost_s = {torch.bfloat16: narrow_s, torch.float32: wide_s}
        self.disturbed = disturbed
        self.now_s = 0.0
        self.multiplied: list[torch.dtype] = []

    def linear(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        assert x.dtype is weight.dtype
        number = len(self.multiplied)
        self.now_s += self.cost_s[x.dtype] * (10 if number in self.disturbed else 1)
        self.multiplied.append(x.dtype)
        return x

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(*request.param)
    monkeypatch.setattr(module.torch.nn.functional, "linear", made.linear)
    monkeypatch.setattr(module.time, "perf_counter", made.perf_counter)
    return made


@pytest.mark.parametrize(
    ("machine", "chosen"),
    [
        ((1.0, 3.0, set()), torch.bfloat16),
        ((1.2, 1.0, set()), torch.bfloat16),  # not clearly
        ((1.4, 1.0, set()), torch.float32),
        ((1.0, 1.0, set(range(6))), torch.bfloat16),  # other work in the first half hits both
        ((1.4, 1.0, {0, 2, 4, 6, 8}), torch.float32),  # all but one of the wide ones are disturbed
    ],
    indirect=["machine"],
)
def test_bfloat16_weights_are_multiplied_in_what_is_clearly_faster(machine: Machine, chosen: torch.dtype) -> None:
    assert choose_matmul_dtype(torch.bfloat16, "cpu") is chosen
    assert machine.multiplied[:4] == [torch.float32, torch.bfloat16] * 2  # in turn


@pytest.mark.parametrize("machine", [(5.0, 1.0, set())], indirect=True)
def test_what_is_beyond_doubt_is_timed_once(machine: Machine) -> None:
    assert choose_matmul_dtype(torch.bfloat16, "cpu") is torch.float32
    assert machine.multiplied == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("machine", [(2.0, 1.0, set())], indirect=True)
@pytest.mark.parametrize(
    ("dtype", "device"), [(torch.bfloat16, "cuda"), (torch.float32, "cpu"), (torch.float16, "cpu")]
)
def test_other_weights_are_left_alone_and_nothing_is_timed(machine: Machine, dtype: torch.dtype, device: str) -> None:
    assert choose_matmul_dtype(dtype, device) is dtype
    assert not machine.multiplied
