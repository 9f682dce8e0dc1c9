"""One optimizer step: exact over micro-batches, honest about what goes wrong."""

import copy
from itertools import pairwise

import pytest
import torch

from tests.training.conftest import MakeModel
from tunery.training.batching import batch_indices, cursor_of, micro_batches, num_batches
from tunery.training.examples import TrainExample
from tunery.training.forward import decoder
from tunery.training.forward.inputs import PackedInputs
from tunery.training.forward.memory import SavedActivations
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packing import Row
from tunery.training.forward.transformers_decoder import ATTENTION, TransformersDecoder
from tunery.training.methods.base import Sums
from tunery.training.methods.dpo import Preference, answer_logprobs
from tunery.training.methods.sft import Supervised
from tunery.training.optimizer import AdamW, learning_rate
from tunery.training.step import MicroBatchLimit, OutOfMemory, Stepper


def examples_of(rows: list[Row]) -> list[TrainExample]:
    return [TrainExample((row,), len(row.token_ids)) for row in rows]


def stepper(model: TrainModel, method: object = None, max_tokens: int = 4096) -> Stepper:
    optimizer = AdamW(model.parameters())
    return Stepper(model, method or Supervised(), optimizer, MicroBatchLimit(max_tokens))  # type: ignore[arg-type]


def adapter(model: TrainModel) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_micro_batches_change_nothing(make_model: MakeModel, rows: list[Row]) -> None:
    whole, cut = make_model(), make_model()
    one = stepper(whole).step(examples_of(rows), 1e-3)
    two = stepper(cut, max_tokens=90).step(examples_of(rows), 1e-3)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)
    assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
    assert one.accuracy == two.accuracy


def test_only_the_adapter_moves(make_model: MakeModel, rows: list[Row]) -> None:
    model = make_model()
    weights = [model.head.weight, *(layer.base.weight for layer in model.layers.values())]
    frozen = [weight.clone() for weight in weights]
    before = adapter(model)
    stepper(model).step(examples_of(rows), 1e-3)
    assert all(torch.equal(weight, before) for weight, before in zip(weights, frozen, strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(before, adapter(model), strict=True))


def test_a_small_set_is_learnt_by_heart(make_model: MakeModel, rows: list[Row]) -> None:
    made = stepper(make_model(blank=True))
    losses = [made.step(examples_of(rows[:2]), 2e-2).loss for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]


def test_the_same_seed_gives_the_same_numbers(make_model: MakeModel, rows: list[Row]) -> None:
    curves = []
    for _ in range(2):
        made = stepper(make_model())
        curves.append([made.step(examples_of(rows), 1e-3).loss for _ in range(3)])
    assert curves[0] == curves[1]


class Fails:
    """Supervised, but the memory runs out, or the loss is no number, as often as asked."""

    def __init__(self, memory: int = 0, nan: int = 0) -> None:
        self.memory, self.nan = memory, nan

    def weight(self, example: TrainExample) -> float:
        return example.loss_weight

    def forward(
        self, model: TrainModel, inputs: PackedInputs, examples: list[TrainExample]
    ) -> tuple[torch.Tensor, Sums]:
        if self.memory:
            self.memory -= 1
            raise torch.OutOfMemoryError("out of memory")
        loss, sums = Supervised().forward(model, inputs, examples)
        if self.nan:
            self.nan -= 1
            return loss * float("nan"), sums
        return loss, sums


def test_out_of_memory_halves_the_micro_batch_and_goes_on(make_model: MakeModel, rows: list[Row]) -> None:
    undisturbed = stepper(make_model()).step(examples_of(rows), 1e-3)
    made = stepper(make_model(), Fails(memory=2))
    result = made.step(examples_of(rows), 1e-3)
    assert (result.halvings, made.limit.max_tokens) == (2, 1024)
    assert result.loss == pytest.approx(undisturbed.loss, rel=1e-5)


def test_out_of_memory_gives_back_what_the_layers_hold(
    make_model: MakeModel, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    class Watched(SavedActivations):
        def begin(self) -> None:
            held.append(self.num_bytes)
            super().begin()

    monkeypatch.setattr(decoder, "SavedActivations", Watched)
    model = make_model()
    stepper(model).step(examples_of(rows), 1e-3)
    stepper(model).step(examples_of(rows), 1e-3)
    assert held[-1] > 0  # from one step to the next
    held.clear()
    stepper(model, Fails(memory=1)).step(examples_of(rows), 1e-3)
    assert held == [0, 0]  # when it was given back, and when the pass was tried again


def test_out_of_memory_to_the_end_is_said(make_model: MakeModel, rows: list[Row]) -> None:
    made = stepper(make_model(), Fails(memory=100))
    with pytest.raises(OutOfMemory, match="does not fit"):
        made.step(examples_of(rows), 1e-3)


def test_a_step_that_is_no_number_is_skipped(make_model: MakeModel, rows: list[Row]) -> None:
    model = make_model()
    made = stepper(model, Fails(nan=1))
    before = adapter(model)
    assert not made.step(examples_of(rows), 1e-3).is_finite
    assert all(torch.equal(a, b) for a, b in zip(before, adapter(model), strict=True))
    assert made.step(examples_of(rows), 1e-3).is_finite


def test_evaluation_equals_training_loss_and_leaves_no_trace(make_model: MakeModel, rows: list[Row]) -> None:
    model = make_model()
    sums = stepper(model, max_tokens=100).evaluate(examples_of(rows))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert sums.mean_loss == pytest.approx(stepper(model).step(examples_of(rows), 1e-3).loss, rel=1e-5)


def pairs(rows: list[Row]) -> list[TrainExample]:
    made = []
    for better, worse in zip(rows[0:4], rows[4:8], strict=True):
        prompt = better.token_ids[:65]
        answers = [row.token_ids[-12 - i :] for i, row in enumerate((better, worse))]
        made.append(
            TrainExample(tuple(Row(prompt + answer, [0.0] * 65 + [1.0] * len(answer)) for answer in answers), 90)
        )
    return made


def dpo_reference(model: TrainModel, examples: list[TrainExample], start: TrainModel, beta: float) -> torch.Tensor:
    """The published formula, one document at a time, through plain autograd."""

    def logprob(which: TrainModel, row: Row) -> torch.Tensor:
        logits = _plain_hidden(which, row) @ which.head.weight.t()
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(row.token_ids[1:])[:, None])[:, 0]
        return (logprobs * torch.tensor(row.loss_weights[1:])).sum()

    losses = []
    for example in examples:
        ratios = [logprob(model, row) - logprob(start, row).detach() for row in example.rows]
        losses.append(-torch.nn.functional.logsigmoid(beta * (ratios[0] - ratios[1])))
    return torch.stack(losses).mean()


def _plain_hidden(model: TrainModel, row: Row) -> torch.Tensor:
    assert isinstance(model.body, TransformersDecoder)
    whole = model.body.model
    whole.set_attn_implementation("eager")
    try:
        return whole.base_model(input_ids=torch.tensor([row.token_ids])).last_hidden_state[0, :-1]
    finally:
        whole.set_attn_implementation(ATTENTION)


def test_dpo_equals_the_published_formula(make_model: MakeModel, rows: list[Row]) -> None:
    model, examples = make_model(), pairs(rows)
    method = Preference(0.3, dict(zip(examples, answer_logprobs(make_model(blank=True), examples), strict=True)))
    result = stepper(model, method, max_tokens=150).step(examples, 0.0)
    twin, start = make_model(fused=False), make_model(blank=True, fused=False)
    expected = dpo_reference(twin, examples, start, 0.3)
    expected.backward()
    assert result.loss == pytest.approx(float(expected.detach()), rel=1e-4)
    norm = torch.stack([p.grad.norm() for p in twin.parameters() if p.grad is not None]).norm()
    assert result.grad_norm == pytest.approx(float(norm), rel=1e-3)


def test_dpo_raises_the_better_answer(make_model: MakeModel, rows: list[Row]) -> None:
    model = make_model(blank=True)
    examples = pairs(rows)
    method = Preference(0.5, dict(zip(examples, answer_logprobs(model, examples), strict=True)))
    made = stepper(model, method)
    results = [made.step(examples, 5e-3) for _ in range(25)]
    assert results[0].loss == pytest.approx(0.6931, abs=1e-3)  # log 2: nothing is preferred yet
    assert results[-1].loss < 0.3
    assert results[-1].extras["reward_accuracy"] == 1.0


def test_every_example_is_seen_once_an_epoch_in_an_order_of_seed_and_epoch() -> None:
    count, size = 23, 4
    epochs = []
    for step in range(2 * num_batches(count, size)):
        cursor = cursor_of(step, count, size)
        if cursor.batch == 0:
            epochs.append([])
        epochs[-1] += batch_indices(cursor, count, size, seed=5)
    assert [sorted(epoch) for epoch in epochs] == [list(range(count))] * 2
    assert epochs[0] != epochs[1]
    assert batch_indices(cursor_of(3, count, size), count, size, 5) == epochs[0][12:16]


def test_micro_batches_hold_every_group_once(rows: list[Row]) -> None:
    groups = [[row] for row in copy.copy(rows)]
    for limit in (1, 50, 120, 10_000):
        cut = micro_batches(groups, limit)
        assert sorted(index for batch in cut for index in batch) == list(range(len(rows)))
    assert len(micro_batches(groups, 10_000)) == 1
    assert len(micro_batches(groups, 1)) == len(rows)


def test_learning_rate_rises_then_falls_to_a_tenth() -> None:
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] < rates[4] <= max(rates) == pytest.approx(1.0, abs=1e-3)
    assert all(a >= b for a, b in pairwise(rates[6:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
