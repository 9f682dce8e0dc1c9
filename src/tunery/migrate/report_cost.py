"""What the compared models cost for the same work. No I/O."""

from dataclasses import dataclass

from tunery.domain.parity import Costs, ModelSummary, Money
from tunery.domain.usage import PICO, Price, TokenUsage

REQUESTS = 1000


@dataclass(frozen=True)
class Tariff:
    currency: str
    price: Price


@dataclass(frozen=True)
class Tariffs:
    """None: the price is not known."""

    old: Tariff | None = None
    new: Tariff | None = None
    base: Tariff | None = None


UNKNOWN = Tariffs()


def costs_of(old: ModelSummary, new: ModelSummary, base: ModelSummary | None, tariffs: Tariffs) -> Costs:
    return Costs(_cost(old, tariffs.old), _cost(new, tariffs.new), _cost(base, tariffs.base))


def _cost(summary: ModelSummary | None, tariff: Tariff | None) -> Money | None:
    """As if nothing had been cached: the models' caches were not asked under equal conditions."""
    if summary is None or tariff is None or not summary.prompt_tokens:
        return None
    tokens = TokenUsage(summary.prompt_tokens, output_tokens=summary.completion_tokens)
    answered = summary.num_rows - summary.num_errors
    return Money(tariff.price.cost(tokens).total / PICO * REQUESTS / answered, tariff.currency)
