"""The validation file while training: a few examples every so often, all of them when an epoch ends. And when more
training makes a model worse."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tunery.texts import say
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


# A validation loss wobbles by about this much between epochs without meaning anything.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Advice:
    best_step: int
    best_loss: float
    step: int
    loss: float

    @property
    def text(self) -> str:
        return say("event.early_stopping", best_loss=self.best_loss, best_step=self.best_step, loss=self.loss)


def early_stopping(valid_losses: list[tuple[int, float]]) -> Advice | None:
    """Advice once the newest of the (step, loss) pairs lies clearly above the best of those before it."""
    if len(valid_losses) < 2:
        return None
    step, loss = valid_losses[-1]
    best_step, best_loss = min(valid_losses[:-1], key=lambda pair: pair[1])
    if loss <= best_loss * (1 + TOLERANCE):
        return None
    return Advice(best_step, best_loss, step, loss)
