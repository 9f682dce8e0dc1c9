"""Fast paths against slow, obvious ones. fp32 with a bound of 1e-5: only the order of sums may differ."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.training.conftest import MakeModel, assert_grads_equal, grads
from tunery.training.forward import head as frozen_head
from tunery.training.forward import packed_attention
from tunery.training.forward.attention import AttentionPlan, reference
from tunery.training.forward.flex import block_mask
from tunery.training.forward.head import Head
from tunery.training.forward.inputs import HeadShape, pack
from tunery.training.forward.memory import Scratch
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packed_attention import packed
from tunery.training.forward.packing import Row
from tunery.training.forward.pointwise import gated_silu, rms_norm
from tunery.training.losses import reference_logprobs, token_logprobs, weighted_nll

TOLERANCE = 1e-5


def plan_of(rows: list[Row]) -> AttentionPlan:
    return pack(rows, HeadShape(num_heads=6, num_kv_heads=2)).plan


def attend(function: Callable[..., torch.Tensor], plan: AttentionPlan) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = plan.subtree_end.numel()
    shapes = [(1, 6, count, 16), (1, 2, count, 16), (1, 2, count, 16)]
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    out = function(*inputs, plan, 0.25)
    out.backward(torch.randn(out.shape, generator=generator))
    return [out.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]


@pytest.mark.parametrize("block", [512, 7])
@pytest.mark.parametrize("keep", [True, False])
def test_grouped_attention_equals_the_dense_mask(
    rows: list[Row], block: int, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_attention, "QUERY_BLOCK", block)
    plan = replace(plan_of(rows), keep_probabilities=keep)
    for fast, slow in zip(attend(packed, plan), attend(reference, plan), strict=True):
        torch.testing.assert_close(fast, slow, rtol=TOLERANCE, atol=TOLERANCE)


def test_flex_mask_is_the_dense_mask(rows: list[Row]) -> None:
    plan = plan_of(rows)
    seen = block_mask(plan).mask_mod
    index = torch.arange(plan.subtree_end.numel())
    zero = torch.tensor(0)
    dense = (index[None] <= index[:, None]) & (index[:, None] < plan.subtree_end[None])
    assert torch.equal(seen(zero, zero, index[:, None], index[None]), dense)


def loss_and_grads(model: TrainModel, rows: list[Row], *, share: bool) -> tuple[float, list[torch.Tensor]]:
    inputs = pack(rows, model.shape, share=share)
    predictions = weighted_nll(model.hidden(inputs), model.head, inputs.labels, inputs.weights)
    (predictions.nll_sum / inputs.weights.sum()).backward()
    return float(predictions.nll_sum.detach()), grads(model)


def test_shared_beginnings_change_nothing(make_model: MakeModel, rows: list[Row]) -> None:
    model = make_model()
    assert pack(rows, model.shape).num_tokens < pack(rows, model.shape, share=False).num_tokens
    shared, separate = (loss_and_grads(model, rows, share=share) for share in (True, False))
    assert shared[0] == pytest.approx(separate[0], rel=TOLERANCE)
    assert_grads_equal(shared[1], separate[1], TOLERANCE)  # of each tensor's largest entry


def distance(one: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    return float(sum((a - b).norm() for a, b in zip(one, exact, strict=True)) / sum(b.norm() for b in exact))


@pytest.mark.parametrize("matmul_dtype", [torch.bfloat16, torch.float32])
def test_shared_beginnings_in_bf16_differ_by_rounding_only(
    make_model: MakeModel, rows: list[Row], matmul_dtype: torch.dtype
) -> None:
    exact = loss_and_grads(make_model(), rows, share=False)
    shared = loss_and_grads(make_model(dtype=torch.bfloat16, matmul_dtype=matmul_dtype), rows, share=True)
    separate = loss_and_grads(make_model(dtype=torch.bfloat16, matmul_dtype=matmul_dtype), rows, share=False)
    assert shared[0] == pytest.approx(exact[0], rel=0.02)
    # bf16 itself is a few percent away from fp32 here; sharing must not add to that.
    assert distance(shared[1], exact[1]) < 1.3 * distance(separate[1], exact[1]) + 0.01


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_widened_products_are_no_farther_from_fp32(
    make_model: MakeModel, rows: list[Row], fused: bool, dropout: float
) -> None:
    def of(**options: torch.dtype) -> tuple[float, list[torch.Tensor]]:
        torch.manual_seed(0)  # the same places are dropped
        return loss_and_grads(make_model(fused=fused, dropout=dropout, **options), rows, share=True)

    exact = of()
    narrow, wide = (
        of(dtype=torch.bfloat16, matmul_dtype=matmul_dtype) for matmul_dtype in (torch.bfloat16, torch.float32)
    )
    assert wide[0] == pytest.approx(exact[0], rel=0.02)
    assert distance(wide[1], exact[1]) < 1.2 * distance(narrow[1], exact[1])
    assert distance(wide[1], narrow[1]) > 0


def test_nothing_is_computed_behind_the_last_trained_token(make_model: MakeModel, rows: list[Row]) -> None:
    model = make_model()
    longer = [Row([*row.token_ids, 7, 8, 9], [*row.loss_weights, 0.0, 0.0, 0.0]) for row in rows]
    assert pack(longer, model.shape).num_tokens == pack(rows, model.shape).num_tokens
    short, long = loss_and_grads(model, rows, share=True), loss_and_grads(model, longer, share=True)
    assert long[0] == short[0]
    assert_grads_equal(long[1], short[1], TOLERANCE)


def test_fused_layers_equal_those_of_transformers(make_model: MakeModel, rows: list[Row]) -> None:
    fast, slow = (loss_and_grads(make_model(fused=fused), rows, share=True) for fused in (True, False))
    assert fast[0] == pytest.approx(slow[0], rel=TOLERANCE)
    assert_grads_equal(fast[1], slow[1], TOLERANCE)


def test_recomputed_layers_give_the_same_gradients(make_model: MakeModel, rows: list[Row]) -> None:
    model = make_model()
    kept = loss_and_grads(model, rows, share=True)
    model.body.recompute(True)
    recomputed = loss_and_grads(model, rows, share=True)
    assert recomputed[0] == kept[0]
    assert_grads_equal(recomputed[1], kept[1], TOLERANCE)


def head_case(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(600, 32, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(1000, 32, generator=generator).to(dtype)
    labels = torch.randint(1000, (600,), generator=generator)
    return hidden, head, labels, torch.rand(600, generator=generator)


def test_chunked_cross_entropy_equals_the_whole_matrix() -> None:
    hidden, head, labels, weights = head_case()
    predictions = weighted_nll(hidden, Head(head, hidden.dtype, Scratch()), labels, weights)
    (2 * predictions.nll_sum).backward()
    fast = hidden.grad
    hidden.grad = None
    logits = hidden @ head.t()
    loss = (F.cross_entropy(logits, labels, reduction="none") * weights).sum()
    (2 * loss).backward()
    torch.testing.assert_close(predictions.nll_sum, loss, rtol=TOLERANCE, atol=0)
    torch.testing.assert_close(fast, hidden.grad, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(predictions.correct, logits.argmax(-1) == labels)


def test_a_head_widened_in_parts_is_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_head, "WIDENED", 32 * 300)  # 300 of the 1,000 tokens at once
    hidden, head, labels, weights = head_case()
    results = []
    for matrix in (head.bfloat16(), head.bfloat16().float()):
        nll_sum = weighted_nll(hidden, Head(matrix, hidden.dtype, Scratch()), labels, weights).nll_sum
        results.append([nll_sum.detach(), *torch.autograd.grad(nll_sum, [hidden])])
    for parts, whole in zip(*results, strict=True):
        assert (parts - whole).norm() < 0.01 * whole.norm()  # logits are kept in the head's type


def test_token_logprobs_equal_the_whole_matrix() -> None:
    hidden, head, labels, weights = head_case()
    logprobs, _ = token_logprobs(hidden, Head(head, hidden.dtype, Scratch()), labels)
    (logprobs * weights).sum().backward()
    fast = hidden.grad
    hidden.grad = None
    slow = reference_logprobs(hidden, head, labels)
    (slow * weights).sum().backward()
    torch.testing.assert_close(logprobs, slow, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(fast, hidden.grad, rtol=TOLERANCE, atol=TOLERANCE)


def test_certain_and_hopeless_tokens_keep_their_logprobs_in_bf16() -> None:
    """bf16 rounds 0.999 to 1: the loss would be 0 and the gradient gone. And e^-200 to 0: the loss infinite."""
    head = torch.eye(4, 8, dtype=torch.bfloat16)
    hidden = torch.tensor([[7.0, 0, 0, 0, 0, 0, 0, 0], [200.0, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.bfloat16)
    hidden.requires_grad_()
    labels = torch.tensor([0, 1])
    logprobs, correct = token_logprobs(hidden, Head(head, hidden.dtype, Scratch()), labels)
    exact = reference_logprobs(hidden.float(), head.float(), labels)
    torch.testing.assert_close(logprobs, exact, rtol=0.01, atol=1e-6)
    assert correct.tolist() == [True, False]


def test_lora_linear_equals_its_formula(make_model: MakeModel) -> None:
    layer = next(iter(make_model().layers.values()))
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 9, 64, generator=generator)
    results = []
    for function in (layer, layer.reference):
        inputs = x.clone().requires_grad_()
        out = function(inputs)
        out.backward(torch.ones_like(out).cumsum(-1))
        results.append([out.detach(), inputs.grad, layer.lora_A.grad, layer.lora_B.grad])
        layer.zero_grad()
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
    assert layer.base.weight.grad is None


def test_lora_dropout_drops_the_adapters_input_only(make_model: MakeModel) -> None:
    model = make_model(dropout=0.5)
    layer = next(iter(model.layers.values()))
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(7)).requires_grad_()

    def formula() -> torch.Tensor:
        inputs = F.dropout(x, 0.5)
        return layer.base(x) + layer.reference(inputs) - layer.base(inputs)

    results = []
    for function in (lambda: layer(x), formula):
        torch.manual_seed(0)
        out = function()
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, layer.lora_A, layer.lora_B])])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
    model.train(False)
    torch.testing.assert_close(layer(x), layer.reference(x), rtol=1e-4, atol=1e-5)


def test_pointwise_parts_equal_their_formulas() -> None:
    generator = torch.Generator().manual_seed(9)
    x, gate, up = (torch.randn(5, 64, generator=generator).requires_grad_() for _ in range(3))
    weight = torch.rand(64, generator=generator)
    fast = rms_norm(x, weight, 1e-5).sum() + gated_silu(gate, up).square().sum()
    slow = (weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)).sum()
    slow = slow + (F.silu(gate) * up).square().sum()
    for one, two in zip(
        torch.autograd.grad(fast, [x, gate, up]), torch.autograd.grad(slow, [x, gate, up]), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_random_trees_too(make_model: MakeModel) -> None:
    model, rng = make_model(), random.Random(11)
    for _ in range(5):
        stems = [[rng.randrange(3, 250) for _ in range(rng.randrange(1, 60))] for _ in range(3)]
        made = []
        for _ in range(8):
            prompt = [token for stem in stems[: rng.randrange(4)] for token in stem]
            tokens = prompt + [rng.randrange(3, 250) for _ in range(rng.randrange(2, 40))]
            made.append(Row(tokens, [0.0] * len(prompt) + [1.0] * (len(tokens) - len(prompt))))
        shared, separate = (loss_and_grads(model, made, share=share) for share in (True, False))
        assert shared[0] == pytest.approx(separate[0], rel=TOLERANCE)
        assert_grads_equal(shared[1], separate[1], TOLERANCE)
