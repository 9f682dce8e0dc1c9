"""Attention of the runs of a pass over the keys and values in the cache, in whichever blocks they lie."""

import numpy as np
import torch
from torch.nn import functional

from tunery.kernels.compile import Array
from tunery.serving.forward.interface import Run
from tunery.serving.forward.kv import KeyValueCache


class Span:
    """A run as its attention needs it."""

    def __init__(self, run: Run, first: int, cache: KeyValueCache) -> None:
        """`first`: the row of its first token in the pass."""
        self.rows = slice(first, first + len(run.token_ids))
        self._num_positions = run.positions.stop
        self._table = torch.tensor([run.block_table[: -(-self._num_positions // cache.block_size)]])
        self._start, self._cache = run.start, cache
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def attend(self, layer: int, query: torch.Tensor, scale: float, window: int | None) -> torch.Tensor:
        """query [T, H, D] → [T, H · D]. `window`: positions that a token sees, its own included; None: all."""
        keys, values = self._cache.read(layer, self._table)
        mask = self._mask(window)
        attended = functional.scaled_dot_product_attention(
            query.transpose(0, 1).unsqueeze(0),
            keys[:, :, : self._num_positions],
            values[:, :, : self._num_positions],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=True,
        )
        return attended.transpose(1, 2).reshape(query.shape[0], -1)

    def _mask(self, window: int | None) -> torch.Tensor | None:
        """[T, positions], to be added to the scores; None: each token sees all up to itself."""
        window = window if window is not None and window < self._num_positions else None
        if window not in self._masks:
            self._masks[window] = self._hidden(window) if window or self._start else None
        return self._masks[window]

    def _hidden(self, window: int | None) -> torch.Tensor:
        """[T, positions]."""
        queries, keys = torch.arange(self._start, self._num_positions).unsqueeze(1), torch.arange(self._num_positions)
        hidden = keys > queries
        if window is not None:
            hidden |= keys <= queries - window
        return torch.zeros(hidden.shape, dtype=self._cache.blocks.dtype).masked_fill_(hidden, float("-inf"))


def spans_of(runs: list[Run], cache: KeyValueCache) -> list[Span]:
    spans: list[Span] = []
    for run in runs:
        spans.append(Span(run, spans[-1].rows.stop if spans else 0, cache))
    return spans


def slots_of(runs: list[Run], block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Block and offset of each token of the runs, [N] each."""
    places = [divmod(position, block_size) for run in runs for position in run.positions]
    tables = [run.block_table for run in runs for _ in run.positions]
    blocks = torch.tensor([table[index] for table, (index, _) in zip(tables, places, strict=True)])
    return blocks, torch.tensor([offset for _, offset in places])


def tables_of(runs: list[Run], block_size: int) -> Array:
    """[B, blocks]: the blocks of each run up to its end, filled with block 0."""
    num_blocks = -(-max(run.positions.stop for run in runs) // block_size)
    return np.array([(run.block_table + [0] * num_blocks)[:num_blocks] for run in runs])
