"""What a job's creator may choose, and what `auto` comes to. The one place that resolves `auto`."""

from dataclasses import dataclass
from typing import Literal

from tunery.texts import say

Auto = Literal["auto"]
AUTO: Auto = "auto"

# OpenAI's rule for epochs, published in its data preparation notebook.
TARGET_EPOCHS = 3
MIN_TARGET_EXAMPLES = 100
MAX_TARGET_EXAMPLES = 25_000
MAX_DEFAULT_EPOCHS = 25


@dataclass(frozen=True)
class Hyperparameters:
    """As on the wire: each a number or `auto`."""

    n_epochs: int | Auto = AUTO
    batch_size: int | Auto = AUTO
    learning_rate_multiplier: float | Auto = AUTO
    beta: float | Auto = AUTO  # DPO only


@dataclass(frozen=True)
class ResolvedHyperparameters:
    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    beta: float
    reasons: dict[str, str]  # for each name, why it has this value: a sentence for people

    def num_steps(self, num_examples: int) -> int:
        """Optimizer steps of the whole job; the last batch of an epoch may be smaller."""
        return self.n_epochs * -(-num_examples // self.batch_size)


def auto_epochs(num_examples: int) -> int:
    if num_examples * TARGET_EPOCHS < MIN_TARGET_EXAMPLES:
        return min(MAX_DEFAULT_EPOCHS, MIN_TARGET_EXAMPLES // max(1, num_examples))
    if num_examples * TARGET_EPOCHS > MAX_TARGET_EXAMPLES:
        return max(1, MAX_TARGET_EXAMPLES // num_examples)
    return TARGET_EPOCHS


def auto_batch_size(num_examples: int) -> int:
    """About 0.2 % of the examples, at least 4 where the file has them: single rows waste a CPU and a GPU alike."""
    return max(min(4, num_examples), min(256, num_examples // 500))


def resolve(chosen: Hyperparameters, *, num_examples: int, default_multiplier: float = 1.0) -> ResolvedHyperparameters:
    """Numbers for every `auto`, each with its reason."""
    reasons: dict[str, str] = {}

    def pick(name: str, value: float | Auto, automatic: float, why: str) -> float:
        reasons[name] = why if value == AUTO else say("reason.chosen")
        return automatic if value == AUTO else value

    epochs = auto_epochs(num_examples)
    batch = auto_batch_size(num_examples)
    return ResolvedHyperparameters(
        n_epochs=int(
            pick("n_epochs", chosen.n_epochs, epochs, say("reason.n_epochs", examples=num_examples, epochs=epochs))
        ),
        batch_size=int(pick("batch_size", chosen.batch_size, batch, say("reason.batch_size", examples=num_examples))),
        learning_rate_multiplier=float(
            pick(
                "learning_rate_multiplier",
                chosen.learning_rate_multiplier,
                default_multiplier,
                say("reason.learning_rate_multiplier"),
            )
        ),
        beta=float(pick("beta", chosen.beta, 0.1, say("reason.beta"))),
        reasons=reasons,
    )
