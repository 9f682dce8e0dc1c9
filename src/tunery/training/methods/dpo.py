"""Direct preference optimisation: raise the better answer over the worse, measured against the model at the start.

loss = -log sigmoid(beta · ((log p(better) - log p₀(better)) - (log p(worse) - log p₀(worse)))), averaged over pairs.
p₀ is the model before the first step; its numbers are computed once and kept.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tunery import atomic
from tunery.training.batching import micro_batches
from tunery.training.examples import TrainExample
from tunery.training.forward.inputs import PackedInputs, pack
from tunery.training.forward.model import TrainModel
from tunery.training.losses import token_logprobs
from tunery.training.methods.base import Sums
from tunery.training.protocol import Workdir

REFERENCE_FILE = "reference.json"


@dataclass(frozen=True)
class Preference:
    beta: float
    reference: Mapping[TrainExample, tuple[float, float]]  # log p₀ of the better and the worse answer

    def weight(self, example: TrainExample) -> float:
        return 1.0

    def forward(self, model: TrainModel, inputs: PackedInputs, examples: Sequence[TrainExample]) -> tuple[Tensor, Sums]:
        """The summed loss of the pairs, a differentiable scalar, and its totals."""
        logprobs, correct = token_logprobs(model.hidden(inputs), model.head, inputs.labels)
        pairs = _sum_by_row(logprobs, inputs, 2 * len(examples)).view(-1, 2)
        reference = torch.tensor([self.reference[example] for example in examples], device=pairs.device)
        rewards = self.beta * (pairs - reference)
        margins = rewards[:, 0] - rewards[:, 1]
        loss = -F.logsigmoid(margins).sum()
        preferred = inputs.row_of % 2 == 0
        sums = Sums(
            loss=float(loss.detach()),
            weight=float(len(examples)),
            num_correct=int((correct & preferred).sum()),
            num_predicted=int(preferred.sum()),
            extras={"reward_accuracy": float((margins > 0).sum()), "reward_margin": float(margins.detach().sum())},
        )
        return loss, sums


def _sum_by_row(logprobs: Tensor, inputs: PackedInputs, num_rows: int) -> Tensor:
    """logprobs [M] → [rows]."""
    return logprobs.new_zeros(num_rows).index_add(0, inputs.row_of, logprobs)


def reference_logprobs(
    workdir: Workdir, model: TrainModel, examples: Sequence[TrainExample], max_tokens: int, check: Callable[[], None]
) -> dict[TrainExample, tuple[float, float]]:
    """For each pair the log-probability of its answers under `model`, which must not have been trained yet. Computed
    once, with `max_tokens` in a pass, and kept for a resumed job."""
    workdir.state.mkdir(exist_ok=True)
    path = workdir.state / REFERENCE_FILE
    if path.exists():
        values = json.loads(path.read_text("utf-8"))
        if len(values) == len(examples):
            return {example: (pair[0], pair[1]) for example, pair in zip(examples, values, strict=True)}
    found: dict[TrainExample, tuple[float, float]] = {}
    for indices in micro_batches([example.rows for example in examples], max_tokens):
        check()
        chosen = [examples[index] for index in indices]
        found |= zip(chosen, answer_logprobs(model, chosen), strict=True)
    atomic.write_text(path, json.dumps([found[example] for example in examples]))
    return found


@torch.no_grad()
def answer_logprobs(model: TrainModel, examples: Sequence[TrainExample]) -> list[tuple[float, float]]:
    """log p of the better and the worse answer of each pair, under the model as it is."""
    inputs = pack([row for example in examples for row in example.rows], model.shape)
    logprobs, _ = token_logprobs(model.hidden(inputs), model.head, inputs.labels)
    sums = _sum_by_row(logprobs, inputs, 2 * len(examples)).view(-1, 2).tolist()
    return [(better, worse) for better, worse in sums]
