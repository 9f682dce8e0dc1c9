"""One request's tokens and how far they are computed."""

from dataclasses import dataclass, field
from enum import StrEnum


class SequenceStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False)
class Sequence:
    """Prompt and output in one list. The last tokens may not be computed yet: `num_computed_tokens` catches up."""

    id: str
    token_ids: list[int]
    num_prompt_tokens: int
    adapter: str | None = None  # registered name; None: the base weights
    salt: str = ""  # isolates the prefix cache: sequences of different salts share nothing
    priority: int = 0  # the lowest number among those that could run has the engine to itself
    scored_from: int | None = None  # the first prompt token whose log-probability is asked for; None: of none
    status: SequenceStatus = SequenceStatus.WAITING
    num_computed_tokens: int = 0
    num_cached_tokens: int = 0  # prompt tokens taken from the prefix cache when first admitted
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)  # of its full blocks, as far as known
    num_skipped_steps: int = 0  # steps in which a missing adapter slot held it back
    was_admitted: bool = False

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_new_tokens(self) -> int:
        """Tokens that wait for their forward pass."""
        return len(self.token_ids) - self.num_computed_tokens


@dataclass(frozen=True)
class Scheduled:
    """A run of one sequence's tokens in the next forward pass: positions [start, start + num_tokens)."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def is_decode(self) -> bool:
        """One output token after everything before it: the pass that is bound by reading the weights."""
        return self.num_tokens == 1 and self.start >= self.sequence.num_prompt_tokens

    @property
    def needs_sample(self) -> bool:
        """The run reaches the sequence's end, so its last position predicts the next token."""
        return self.start + self.num_tokens == self.sequence.num_tokens


@dataclass(frozen=True)
class Batch:
    prefill: list[Scheduled]
    decode: list[Scheduled]

    @property
    def runs(self) -> list[Scheduled]:
        return self.prefill + self.decode

    @property
    def priority(self) -> int:
        """Of all its sequences."""
        return self.runs[0].sequence.priority
