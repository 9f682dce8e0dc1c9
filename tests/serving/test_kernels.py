"""The compiled loops of a decode step against tensor operations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.serving.peft_adapters import write_adapter
from tests.serving.test_forward import make_model
from tunery.kernels import decode as kernels
from tunery.kernels.compile import as_array
from tunery.kernels.layers import ALL
from tunery.serving.forward.model import Run, rotate_

DTYPES = (torch.float32, torch.bfloat16)
ROWS, HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 5, 6, 2, 16, 16
BLOCKS, LAYERS, LAYER = 20, 3, 1
CACHE = (BLOCKS, LAYERS, 2 * KV_HEADS, BLOCK_SIZE, HEAD_DIM)
# bfloat16 keeps eight bits: half a step is 2^-9 of a number, and sums of rounded numbers add a few.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    return torch.allclose(actual.float(), expected.float(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_norm(dtype: torch.dtype) -> None:
    x, delta, weight = (torch.randn(shape).to(dtype) for shape in ((ROWS, 48), (ROWS, 48), (48,)))
    for share in (1.0, 0.22):
        total, out = torch.add(x, delta, alpha=share), torch.empty_like(x)
        numbers = np.float32(share), as_array(weight), np.float32(1e-5)
        kernels.add_norm(as_array(x), as_array(delta), *numbers, as_array(out))
        assert torch.equal(x, total) if share == 1 else close(x, total, dtype)  # an addition, rounded as by torch
    assert close(out, functional.rms_norm(total.float(), (48,), weight.float(), 1e-5), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [HEAD_DIM, 12, 0])
def test_rotate_and_keep(dtype: torch.dtype, width: int) -> None:
    qkv = torch.randn(ROWS, HEADS + 2 * KV_HEADS, HEAD_DIM).to(dtype)
    cos, sin = torch.rand(64, 1, width).to(dtype), torch.rand(64, 1, width).to(dtype)
    positions, tables = torch.tensor([0, 3, 63, 7, 16]), torch.randperm(BLOCKS).view(ROWS, -1)
    cache = torch.zeros(CACHE, dtype=dtype)
    expected = qkv.float()
    rotate_(expected[:, : HEADS + KV_HEADS, :width], cos[positions].float(), sin[positions].float())
    turns = (as_array(cos.squeeze(1)), as_array(sin.squeeze(1)))
    kernels.rotate_and_keep(as_array(qkv), *turns, positions.numpy(), tables.numpy(), as_array(cache), LAYER)
    assert close(qkv, expected, dtype)
    blocks = tables[torch.arange(ROWS), positions // BLOCK_SIZE]
    assert torch.equal(cache[blocks, LAYER, :, positions % BLOCK_SIZE], qkv[:, HEADS:])
    assert int((cache != 0).any(-1).sum()) == 2 * KV_HEADS * ROWS, "nothing else is written"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [ALL, 16, 17, 5, 1])
def test_attend(dtype: torch.dtype, window: int) -> None:
    qkv = torch.randn(ROWS, HEADS + 2 * KV_HEADS, HEAD_DIM).to(dtype)
    cache = torch.randn(CACHE).to(dtype)
    tables = torch.stack([torch.randperm(BLOCKS)[:4] for _ in range(ROWS)])
    lengths = torch.tensor([1, 15, 16, 17, 64])
    out = torch.empty(ROWS, HEADS, HEAD_DIM, dtype=dtype)
    how = LAYER, tables.numpy(), lengths.numpy(), window, np.float32(0.3)
    kernels.attend(as_array(qkv), as_array(cache), *how, as_array(out))
    for row in range(ROWS):
        heads = cache[tables[row], LAYER].float().transpose(0, 1).flatten(1, 2)
        heads = heads[:, max(int(lengths[row]) - window, 0) : lengths[row]]
        keys, values = heads.repeat_interleave(HEADS // KV_HEADS, 0).chunk(2)
        queries = qkv[row, :HEADS].float().unsqueeze(1)
        expected = functional.scaled_dot_product_attention(queries, keys, values, scale=0.3)
        assert close(out[row], expected.squeeze(1), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lora_gives_each_rows_own_and_leaves_the_others(dtype: torch.dtype) -> None:
    x, y = torch.randn(3, 24).to(dtype), torch.randn(3, 40).to(dtype)
    a, b = torch.randn(6, 24).to(dtype), torch.randn(6, 8).to(dtype)  # four at once, and two
    tables = np.zeros((2, 3, 3), np.int64)  # room for three members, of which this linear has two
    tables[1, 1] = (a.data_ptr(), b.data_ptr(), 6)
    expected = y.float()
    expected[:2] = 0  # what an adapter leaves alone, too
    expected[1, 32:] = x[1].float() @ a.float().t() @ b.float()
    order, columns = np.array([1, 0]), np.array([0, 32, 40])
    kernels.lora(as_array(y), as_array(x), tables, np.array([0, 1, 0]), order, columns)
    assert close(y, expected, dtype)


def test_what_is_no_number_stays_so() -> None:
    qkv = torch.randn(1, HEADS + 2 * KV_HEADS, HEAD_DIM).to(torch.bfloat16)
    qkv[0, 0, 3] = float("nan")
    cache = torch.randn(CACHE).to(torch.bfloat16)
    out = torch.empty(1, HEADS, HEAD_DIM, dtype=torch.bfloat16)
    how = LAYER, np.array([[0]]), np.array([5]), ALL, np.float32(0.25)
    kernels.attend(as_array(qkv), as_array(cache), *how, as_array(out))
    assert out[0, 0].isnan().all()
    assert out[0, 1:].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_decode_step_equals_a_prompt_of_one_token(tiny_model_dir: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """Attention, rotation and the residual stream are tensor operations there."""
    model = make_model(tiny_model_dir, dtype)
    modules = ["q_proj", "v_proj", "gate_proj", "down_proj"]
    folder = write_adapter(tiny_model_dir, tmp_path, rank=4, modules=modules, seed=1)
    rows = (None, model.read_adapter(folder))
    for length, adapter in zip((3, 40), rows, strict=True):
        prompt = [5 + i % 60 for i in range(length)]
        tables = ([0, 1, 2], [3, 4, 5])
        for table in tables:
            model.prefill([Run(prompt, 0, table, adapter)])
        expected = model.logits(model.prefill([Run([9], length, tables[0], adapter)]))
        actual = model.decode([Run([9], length, tables[1], adapter)])
        assert (actual - expected).norm() < TOLERANCE[dtype] * expected.norm()
