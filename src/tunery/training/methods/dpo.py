"""Direct preference optimisation: raise the better answer over the worse, measured against the model at the start.

loss = -log sigmoid(beta · ((log p(better) - log p₀(better)) - (log p(worse) - log p₀(worse)))), averaged over pairs.
p₀ is the model before the first step; its numbers are computed once and kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tunery.training.examples import TrainExample
from tunery.training.forward.inputs import PackedInputs, pack
from tunery.training.forward.model import TrainModel
from tunery.training.losses import token_logprobs
from tunery.training.methods.base import Sums


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


@torch.no_grad()
def answer_logprobs(model: TrainModel, examples: Sequence[TrainExample]) -> list[tuple[float, float]]:
    """log p of the better and the worse answer of each pair, under the model as it is."""
    inputs = pack([row for example in examples for row in example.rows], model.shape)
    logprobs, _ = token_logprobs(model.hidden(inputs), model.head, inputs.labels)
    sums = _sum_by_row(logprobs, inputs, 2 * len(examples)).view(-1, 2).tolist()
    return [(better, worse) for better, worse in sums]
