"""The byte products against their formula."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from numba.core.codegen import get_host_cpu_features

from tunery.kernels import int8 as eight_bit
from tunery.kernels.compile import as_array
from tunery.kernels.int8 import GROUP, EightBit, fits, group_steps
from tunery.kernels.process import instructions

HOST = get_host_cpu_features().split(",")

pytestmark = pytest.mark.skipif(not eight_bit.is_available(), reason="this processor does not multiply bytes")


def formula(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, most: int) -> torch.Tensor:
    """Both sides rounded in groups as the module says, multiplied in float64."""
    steps, scale, low = group_steps(weight, most, kept_in=torch.bfloat16)
    scale, low = (part.double().unsqueeze(-1) for part in (scale, low))
    weight = (steps.view(*scale.shape[:2], GROUP).double() * scale + low).flatten(1)
    groups = x.double().view(len(x), -1, GROUP)
    unit = groups.abs().amax(-1, keepdim=True) / 127
    rounded = (groups / unit.clamp(min=1e-30)).round() * unit
    return rounded.flatten(1) @ weight.t() + bias.double()


def multiply(linear: EightBit, x: torch.Tensor, num_out: int) -> torch.Tensor:
    y = np.empty((len(x), num_out), np.float32)
    linear(as_array(x), y)
    return torch.from_numpy(y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("most", [15, 255])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 21])
def test_products_are_those_of_the_formula(rows: int, most: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    weight, bias = torch.randn(48, 96).bfloat16(), torch.randn(48).bfloat16()
    x = torch.randn(rows, 96).to(dtype)
    x[0, :GROUP] = 0
    x[-1, 5] = 300

    expected = formula(x, weight, bias, most)

    made = multiply(EightBit(weight, bias, most=most), x, 48)
    # An input on the border of two integers may fall to either side in float32: one step of one input.
    assert (made - expected).norm() < 1e-3 * expected.norm()


def test_a_row_is_the_same_to_the_bit_in_any_company() -> None:
    torch.manual_seed(0)
    linear = EightBit(torch.randn(64, 128).bfloat16(), None, most=255)
    x = torch.randn(13, 128).bfloat16()
    together = multiply(linear, x, 64)

    for row in range(13):
        assert torch.equal(multiply(linear, x[row : row + 1], 64)[0], together[row])


def test_no_number_in_gives_no_number_out() -> None:
    linear = EightBit(torch.randn(32, 64).bfloat16(), None, most=255)
    for broken in (float("nan"), float("inf")):
        x = torch.randn(2, 64)
        x[0, 40] = broken
        made = multiply(linear, x, 32)
        assert not made[0].isfinite().any() and made[1].isfinite().all()


@pytest.mark.parametrize("place", [0, 37])
def test_a_broken_weight_is_noticed(place: int) -> None:
    weight = torch.randn(32, 64)
    weight[3, place] = float("nan")
    made = multiply(EightBit(weight, None, most=255), torch.randn(2, 64), 32)
    assert made[:, 3].isnan().all()
    assert made[:, 4:].isfinite().all()


def test_shapes_that_do_not_divide_are_left_to_others() -> None:
    assert fits(64, 64)
    assert not fits(97, 64) and not fits(64, 48)


NARROW = "dot_product.LANES, dot_product.MOST_ROWS = 8, 4"  # VNNI without AVX-512; a processor with it can, too
OLDER = [limit for limit, feature in (("avx512", "avx512bw"), ("avx2", "avx2")) if f"+{feature}" in HOST]
VNNI = [("auto", NARROW)] if "+avx512vnni" in HOST else []


@pytest.mark.parametrize(("limit", "first"), [*VNNI, *((limit, "") for limit in OLDER)])
def test_every_form_computes_the_same_to_the_bit(limit: str, first: str, tmp_path: Path) -> None:
    """The forms that this processor can run, though it chooses another."""
    script = f"""
import sys
from tunery.kernels import dot_product
{first}
from tests.serving.test_eight_bit import products
sys.stdout.write(products())
"""
    environment = {**os.environ, **instructions(limit), "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    )
    assert done.stdout.decode() == products()


def products() -> str:
    """Of each size of steps and number of rows computed at once, and of the largest numbers that there can be."""
    torch.manual_seed(0)
    weight, bias, x = torch.randn(48, 96).bfloat16(), torch.randn(48).bfloat16(), torch.randn(15, 96)
    weight[5], weight[5, ::GROUP] = 1, 0  # the largest step everywhere but once
    x[3], x[4] = 1, -1
    made = [multiply(EightBit(weight, bias, most=most), x, 48) for most in (15, 255)]
    return " ".join(sha256(part.numpy().tobytes()).hexdigest() for part in made)
