"""What was used and what it costs. Money is whole numbers: sums of floats would not be the sum of the bills."""

from dataclasses import dataclass, replace
from typing import Literal

UsageKind = Literal["completion", "training"]
MICRO = 1_000_000
PICO = 1_000_000_000_000  # costs are counted in millionths of a millionth: tokens x price per million, never rounded


@dataclass(frozen=True)
class TokenUsage:
    input_tokens: int = 0  # cached ones included
    cached_tokens: int = 0
    output_tokens: int = 0
    trained_tokens: int = 0


@dataclass(frozen=True)
class Cost:
    """In millionths of a millionth of the currency, by line of the bill."""

    input: int = 0
    cached: int = 0
    output: int = 0
    training: int = 0

    @property
    def total(self) -> int:
        return self.input + self.cached + self.output + self.training


@dataclass(frozen=True)
class Price:
    """Millionths of the currency for a million tokens."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    training: int = 0

    def cost(self, usage: TokenUsage) -> Cost:
        return Cost(
            input=(usage.input_tokens - usage.cached_tokens) * self.input,
            cached=usage.cached_tokens * self.cached_input,
            output=usage.output_tokens * self.output,
            training=usage.trained_tokens * self.training,
        )

    def scaled(self, percent: int) -> "Price":
        """For batches, which cost a part of the price of single requests. Training is never batched."""
        return replace(
            self,
            input=self.input * percent // 100,
            cached_input=self.cached_input * percent // 100,
            output=self.output * percent // 100,
        )


@dataclass(frozen=True)
class UsageRecord:
    """One line of the ledger."""

    request_id: str  # the server's own: a repeated write counts once
    kind: UsageKind
    project_id: str
    user_id: str  # "" = none
    api_key_id: str
    model: str
    created_at: int
    usage: TokenUsage
    cost: Cost
    currency: str
    client_request_id: str | None = None  # the client's: its retry of an answer it never got replaces the record
    is_batch: bool = False


@dataclass(frozen=True)
class UsageSum:
    """What one bucket of time holds for one value of each column that was grouped by."""

    start_time: int
    group: dict[str, str | bool]
    num_requests: int
    usage: TokenUsage
    cost: Cost
    currency: str
