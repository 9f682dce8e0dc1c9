"""What a training method must offer. The step knows nothing else of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from tunery.training.examples import TrainExample
from tunery.training.forward.inputs import PackedInputs
from tunery.training.forward.model import TrainModel


@dataclass
class Sums:
    """Totals over some examples. Means are taken once, over a whole batch, so unequal micro-batches stay exact."""

    loss: float = 0.0
    weight: float = 0.0  # what `loss` is divided by
    num_correct: int = 0
    num_predicted: int = 0
    extras: dict[str, float] = field(default_factory=dict)  # of the method's own measures; divided by weight too

    def add(self, other: "Sums") -> None:
        self.loss += other.loss
        self.weight += other.weight
        self.num_correct += other.num_correct
        self.num_predicted += other.num_predicted
        for name, value in other.extras.items():
            self.extras[name] = self.extras.get(name, 0.0) + value

    @property
    def mean_loss(self) -> float:
        return self.loss / self.weight if self.weight else 0.0

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_predicted if self.num_predicted else 0.0


class TrainingMethod(Protocol):
    def weight(self, example: TrainExample) -> float:
        """What the example adds to the denominator of the mean loss."""
        ...

    def forward(self, model: TrainModel, inputs: PackedInputs, examples: Sequence[TrainExample]) -> tuple[Tensor, Sums]:
        """The differentiable sum of the loss (a scalar) over the examples that `inputs` was packed from, and its
        totals."""
        ...
