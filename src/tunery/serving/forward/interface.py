"""What the engine asks of a model's forward, whichever form computes it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from tunery.serving.forward.adapters import Adapter
from tunery.serving.forward.kv import KeyValueCache
from tunery.serving.forward.linear import Precision


class Interrupted(Exception):
    """A pass was given up between two layers. Keys and values of its tokens may be wrong until they are written anew;
    all others are as they were."""


def never() -> bool:
    return False


@dataclass(frozen=True)
class Run:
    """Consecutive tokens of one sequence: positions [start, start + len(token_ids))."""

    token_ids: list[int]
    start: int
    block_table: list[int]
    adapter: Adapter | None

    @property
    def positions(self) -> range:
        return range(self.start, self.start + len(self.token_ids))


class Forward(Protocol):
    """`should_stop` is asked before each layer; when it says so, the pass raises Interrupted."""

    cache: KeyValueCache

    @property
    def context_length(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def precision(self) -> Precision: ...

    def warm_up(self) -> None:
        """Compile what is compiled. Writes to block 0, which must be free."""
        ...

    def read_adapter(self, folder: Path) -> Adapter:
        """May run in another thread. Raises InvalidRequest."""
        ...

    def prefill(self, runs: list[Run], *, exact: bool = False, should_stop: Callable[[], bool] = never) -> torch.Tensor:
        """Hidden states [N, E] of all tokens, after the final norm. Their keys and values are in the cache.

        `exact`: with the weights as they were given. Runs may read blocks that other runs of the same call write: a
        layer's keys are all written before one is read.
        """
        ...

    def decode(self, runs: list[Run], *, should_stop: Callable[[], bool] = never) -> torch.Tensor:
        """Logits [B, V] in fp32 after one token of each run."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """To draw from: [N, E] → [N, V] in fp32."""
        ...

    def exact_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """To score with: the same from the weights as they were given. hidden [N, E] → [N, V] in fp32."""
        ...
