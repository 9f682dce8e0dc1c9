"""Supervised: the weighted negative log-likelihood of the trained tokens, averaged over all tokens of the batch.

Apart because a method is a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tunery.training.examples import TrainExample
from tunery.training.forward.inputs import PackedInputs
from tunery.training.forward.model import TrainModel
from tunery.training.losses import weighted_nll
from tunery.training.methods.base import Sums


@dataclass(frozen=True)
class Supervised:
    def weight(self, example: TrainExample) -> float:
        return example.loss_weight

    def forward(self, model: TrainModel, inputs: PackedInputs, examples: Sequence[TrainExample]) -> tuple[Tensor, Sums]:
        """The weighted sum of the loss, a differentiable scalar, and its totals."""
        predictions = weighted_nll(model.hidden(inputs), model.head, inputs.labels, inputs.weights)
        sums = Sums(
            loss=float(predictions.nll_sum.detach()),
            weight=float(inputs.weights.sum()),
            num_correct=int(predictions.correct.sum()),
            num_predicted=len(inputs.labels),
        )
        return predictions.nll_sum, sums
