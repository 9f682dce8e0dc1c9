"""The validation file while training: a few examples every so often, all of them when an epoch ends."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tunery.training.examples import TrainExample
from tunery.training.step import Stepper

EVERY_STEPS = 10
MIN_PARTIAL = 8  # examples; a batch of one would say nothing


@dataclass(frozen=True)
class Validator:
    stepper: Stepper
    examples: Sequence[TrainExample]
    batch_size: int
    seed: int

    def is_due(self, step: int, total_steps: int) -> bool:
        """After optimizer step `step`, counted from 1."""
        return bool(self.examples) and (step % EVERY_STEPS == 0 or step == total_steps)

    def partial(self, step: int) -> dict[str, float]:
        """The same few examples for the same step, whatever happened in between."""
        count = min(len(self.examples), max(MIN_PARTIAL, self.batch_size))
        chosen = random.Random(f"{self.seed}:valid:{step}").sample(range(len(self.examples)), count)
        sums = self.stepper.evaluate([self.examples[index] for index in chosen])
        return {"valid_loss": sums.mean_loss, "valid_mean_token_accuracy": sums.accuracy}

    def full(self) -> dict[str, float]:
        sums = self.stepper.evaluate(self.examples)
        return {"full_valid_loss": sums.mean_loss, "full_valid_mean_token_accuracy": sums.accuracy}
