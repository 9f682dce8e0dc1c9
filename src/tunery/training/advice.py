"""When more training makes a model worse."""

from dataclasses import dataclass

from tunery.texts import say

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
