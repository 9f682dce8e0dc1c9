"""The adapters' part of the linear layers, in a pass that mixes adapters.

Single rows and short runs go through one compiled loop, which finds each row's matrices by their addresses. A run of
one adapter that is long enough is a product of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tunery.kernels import decode as kernels
from tunery.kernels.compile import Array, as_tensor
from tunery.serving.forward.adapters import Adapter, Places
from tunery.serving.forward.linear import Shared

LONG_RUN = 128  # rows; measured: with fewer, calling the products costs more than the loop


@dataclass(frozen=True)
class _LongRun:
    rows: slice
    adapter: Adapter


@dataclass(frozen=True)
class LoraPass:
    """Whose matrices each row of a pass uses. `fused` below: the number of a product, see models.architecture."""

    columns: list[Array]  # for each fused linear, where its members' outputs begin
    tables: Array  # [A, layers, products, MEMBERS, 3], see Adapter.addresses
    table_of: Array  # [N]: the row's among them; the first for rows without an adapter and those of long runs
    order: Array  # the rows with a table of their own, those of one adapter next to each other
    long_runs: list[_LongRun]
    matmul_dtype: torch.dtype  # of their products, see kernels.matmul_dtype

    def __call__(self, x: Shared, layer: int, fused: int) -> Array:
        """What the adapters add to the output of a fused linear. x [N, in] → [N, out]."""
        columns = self.columns[fused]
        y = np.zeros((len(x.array), columns[-1]), x.array.dtype)
        kernels.lora(y, x.array, self.tables[:, layer, fused], self.table_of, self.order, columns)
        wide = self.matmul_dtype
        for run in self.long_runs:
            for part in run.adapter.parts.get((layer, fused), ()):
                own = y[run.rows, part.column : part.column + part.b.shape[1]]
                as_tensor(own).copy_(x.tensor[run.rows].to(wide) @ part.a.t().to(wide) @ part.b.to(wide))
        return y


class Lora:
    def __init__(self, places: Places, matmul_dtype: torch.dtype) -> None:
        self._matmul_dtype = matmul_dtype
        self._columns, self._base = places.columns, places.no_adapter

    def over(self, runs: Sequence[tuple[Adapter | None, int]], *, long_run: float = LONG_RUN) -> LoraPass | None:
        """The pass over these runs, each so many rows of one adapter; None when there is no adapter.

        `long_run`: from how many rows on a run is a product of its own.
        """
        if all(adapter is None for adapter, _ in runs):
            return None
        index: dict[int, int] = {}
        tables, table_of = [self._base], []
        long_runs: list[_LongRun] = []
        for adapter, rows in _joined(runs):
            start = len(table_of)
            table = 0
            if adapter is not None and rows >= long_run:
                long_runs.append(_LongRun(slice(start, start + rows), adapter))
            elif adapter is not None:
                table = index.setdefault(id(adapter), len(tables))
                if table == len(tables):
                    tables.append(adapter.addresses)
            table_of += [table] * rows
        of_rows = np.array(table_of)
        order = np.argsort(of_rows, kind="stable")[np.count_nonzero(of_rows == 0) :]
        return LoraPass(self._columns, np.stack(tables), of_rows, order, long_runs, self._matmul_dtype)


def _joined(runs: Sequence[tuple[Adapter | None, int]]) -> list[tuple[Adapter | None, int]]:
    """Neighbours with the same adapter as one run."""
    joined: list[tuple[Adapter | None, int]] = []
    for adapter, rows in runs:
        if joined and joined[-1][0] is adapter:
            joined[-1] = (adapter, joined[-1][1] + rows)
        else:
            joined.append((adapter, rows))
    return joined
