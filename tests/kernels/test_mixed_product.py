"""Products of float32 rows and bfloat16 weights against torch's of the widened weights."""

import os
import subprocess
import sys

import pytest
import torch

from tunery.kernels import mixed_product
from tunery.kernels.dot_product import LANES
from tunery.kernels.process import instructions

pytestmark = pytest.mark.skipif(LANES == 0, reason="this processor has no such vectors")

SHAPES = [  # rows, outputs, inputs: whole blocks and what is left of each
    (1, 1, 1),
    (1, 48, 64),
    (3, 49, 32),
    (5, 7, 33),
    (13, 100, 70),
    (57, 96, 608),
    (64, 300, 31),
    (2, 520, 48),
]


@pytest.mark.parametrize(("num_rows", "num_out", "num_in"), SHAPES)
def test_both_products(num_rows: int, num_out: int, num_in: int) -> None:
    generator = torch.Generator().manual_seed(num_rows + num_out)
    # Parts of wider tensors: the trainer's are.
    x = torch.randn(num_rows, num_in + 3, generator=generator)[:, :num_in]
    grad = torch.randn(num_rows, num_out + 5, generator=generator)[:, :num_out]
    weight = torch.randn(num_out, num_in + 1, generator=generator).bfloat16()[:, :num_in]
    before = torch.randn(num_rows, num_in + 2, generator=generator)

    y = torch.full((num_rows, num_out + 1), 7.0)
    mixed_product.linear(x, weight, y[:, :num_out])
    exact = x.double() @ weight.double().t()
    torch.testing.assert_close(y[:, :num_out].double(), exact, rtol=1e-5, atol=1e-4)
    assert (y[:, num_out] == 7).all()

    exact = grad.double() @ weight.double()
    out = before.clone()
    mixed_product.times(grad, weight, out[:, :num_in])
    torch.testing.assert_close(out[:, :num_in].double(), exact, rtol=1e-5, atol=1e-4)
    assert torch.equal(out[:, num_in:], before[:, num_in:])

    out = before.clone()
    mixed_product.times(grad, weight, out[:, :num_in], onto=True)
    torch.testing.assert_close(out[:, :num_in].double(), exact + before[:, :num_in].double(), rtol=1e-5, atol=1e-4)
    assert torch.equal(out[:, num_in:], before[:, num_in:])


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Where it stands in its block may order its sums, how many others there are may not."""
    x, weight = torch.randn(40, 96), torch.randn(64, 96).bfloat16()
    whole, part = torch.empty(40, 64), torch.empty(12, 64)
    mixed_product.linear(x, weight, whole)
    mixed_product.linear(x[:12].clone(), weight, part)
    assert torch.equal(whole[:12], part)


def test_what_is_no_number_stays_so() -> None:
    x, weight = torch.ones(2, 64), torch.ones(32, 64).bfloat16()
    x[1, 3] = float("nan")
    y, back = torch.empty(2, 32), torch.empty(2, 64)
    mixed_product.linear(x, weight, y)
    mixed_product.times(y, weight, back)
    assert y[0].isfinite().all() and y[1].isnan().all()
    assert back[0].isfinite().all() and back[1].isnan().all()


@pytest.mark.parametrize(
    ("rows", "weight", "suits"),
    [
        (torch.ones(4, 8), torch.ones(8, 8).bfloat16(), True),
        (torch.ones(4, 8).bfloat16(), torch.ones(8, 8).bfloat16(), False),
        (torch.ones(4, 8), torch.ones(8, 8), False),
        (torch.ones(mixed_product.MOST_ROWS + 1, 8), torch.ones(8, 8).bfloat16(), False),
    ],
)
def test_when_they_are_the_faster_ones(rows: torch.Tensor, weight: torch.Tensor, suits: bool) -> None:
    assert mixed_product.suits(rows, weight) is suits


@pytest.mark.skipif("NUMBA_CPU_NAME" in os.environ, reason="this is the other form")
def test_both_products_in_the_form_of_an_older_processor() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    subprocess.run(command, env={**os.environ, **instructions("avx2")}, check=True)
