"""How much computing a training job is: floating-point operations from token counts and the model's sizes."""

from dataclasses import dataclass

from tunery.datasets.report import TokenCounts
from tunery.domain.hyperparameters import ResolvedHyperparameters
from tunery.domain.jobs import Method
from tunery.models.config import Sizes

# Per parameter and token. A step goes forward, and backward to the activations: frozen weights have no gradient.
_FORWARD, _STEP = 2, 4


@dataclass(frozen=True)
class EpochCounts:
    """What one pass over a training file holds; small enough to stand in a job's details."""

    num_examples: int
    num_tokens: int
    num_loss_tokens: int
    num_prefix_tokens: int  # every example begins with the same so many tokens

    @classmethod
    def of(cls, counts: TokenCounts, num_examples: int) -> "EpochCounts":
        return cls(num_examples, counts.tokens.total, counts.trained_tokens.total, counts.num_prefix_tokens)


def training_flop(counts: EpochCounts, chosen: ResolvedHyperparameters, *, method: Method, sizes: Sizes) -> float:
    """Of the whole job. A prefix that all rows of a step share is computed once a step."""
    steps = chosen.num_steps(counts.num_examples) / chosen.n_epochs
    computed = max(1.0, counts.num_tokens - counts.num_prefix_tokens * (counts.num_examples - steps))
    epoch = computed * sizes.body_parameters + counts.num_loss_tokens * sizes.head_parameters
    return epoch * (_STEP * chosen.n_epochs + (_FORWARD if method == "dpo" else 0))
