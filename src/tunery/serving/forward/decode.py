"""One token of each of many sequences: matrix products by torch, all between them by the compiled loops of kernels.py.

`model.py` computes the same with tensor operations alone, token by token if asked to: it is the reference.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunery.serving.forward import kernels
from tunery.serving.forward.adapters import Adapter, no_adapter
from tunery.serving.forward.config import ModelConfig
from tunery.serving.forward.kernels import Array
from tunery.serving.forward.kv import KeyValueCache
from tunery.serving.forward.linear import PackedLinear
from tunery.serving.forward.weights import FUSED, LayerWeights, ModelWeights, module_sizes


@dataclass(frozen=True)
class Run:
    """Consecutive tokens of one sequence: positions [start, start + len(token_ids))."""

    token_ids: list[int]
    start: int
    block_table: list[int]
    adapter: Adapter | None


@dataclass(frozen=True)
class _Rows:
    """A step's rows as the loops read them."""

    positions: Array  # [B]
    lengths: Array  # [B]: positions to see
    slots: Array  # [B]: where the cache takes the new token
    tables: Array  # [B, blocks], filled with block 0
    adapters: Array | None  # [B, layers, len(FUSED), MEMBERS, 3], see Adapter.addresses


class DecodePass:
    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        cache: KeyValueCache,
        rope: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        """rope: the tables of rope.py."""
        self._config = config
        self._weights = weights
        self._cache = cache
        self._eps = np.float32(config.rms_norm_eps)
        self._cos, self._sin = (as_array(table.squeeze(1)) for table in rope)
        self._base = no_adapter(config)
        sizes = module_sizes(config)
        self._columns = [np.cumsum([0] + [sizes[member][1] for member in members]) for members in FUSED.values()]

    def __call__(self, runs: list[Run]) -> torch.Tensor:
        """Hidden states [B, hidden] after the final norm."""
        kernels.use_threads(torch.get_num_threads())
        rows = self._rows(runs)
        delta = self._weights.embedding[[run.token_ids[0] for run in runs]]
        x, h = torch.zeros_like(delta), torch.empty_like(delta)
        for index, layer in enumerate(self._weights.layers):
            self._add_norm(x, delta, layer.input_norm, h)
            attended = self._attend(layer, index, h, rows)
            delta = self._linear(layer.o, attended, rows, index, 1)
            self._add_norm(x, delta, layer.post_norm, h)
            gate_up = self._linear(layer.gate_up, h, rows, index, 2)
            inner = gate_up.new_empty(len(runs), gate_up.shape[1] // 2)
            kernels.gate(as_array(gate_up), as_array(inner))
            delta = self._linear(layer.down, inner, rows, index, 3)
        self._add_norm(x, delta, self._weights.norm, h)
        return h

    def _add_norm(self, x: torch.Tensor, delta: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        kernels.add_norm(as_array(x), as_array(delta), as_array(weight), self._eps, as_array(out))

    def _linear(self, linear: PackedLinear, x: torch.Tensor, rows: _Rows, layer: int, fused: int) -> torch.Tensor:
        y = linear(x)
        if rows.adapters is not None:
            kernels.add_lora(as_array(y), as_array(x), rows.adapters[:, layer, fused], self._columns[fused])
        return y

    def _attend(self, layer: LayerWeights, index: int, h: torch.Tensor, rows: _Rows) -> torch.Tensor:
        config, cache = self._config, as_array(self._cache.rows[index])
        qkv = self._linear(layer.qkv, h, rows, index, 0)
        heads = as_array(qkv).reshape(len(qkv), -1, config.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            num_rotated = config.num_heads + config.num_kv_heads
            kernels.norm_heads(heads[:, : config.num_heads], as_array(layer.q_norm), self._eps)
            kernels.norm_heads(heads[:, config.num_heads : num_rotated], as_array(layer.k_norm), self._eps)
        kernels.rotate_and_keep(heads, self._cos, self._sin, rows.positions, rows.slots, cache)
        attended = qkv.new_empty(len(qkv), config.num_heads * config.head_dim)
        out = as_array(attended).reshape(len(qkv), config.num_heads, config.head_dim)
        kernels.attend(heads, cache, rows.tables, rows.lengths, self._cache.block_size, out)
        return attended

    def _rows(self, runs: list[Run]) -> _Rows:
        block_size = self._cache.block_size
        positions = np.array([run.start for run in runs])
        num_blocks = int(positions.max()) // block_size + 1
        tables = np.array([(run.block_table + [0] * num_blocks)[:num_blocks] for run in runs])
        slots = tables[np.arange(len(runs)), positions // block_size] * block_size + positions % block_size
        adapters = None
        if any(run.adapter is not None for run in runs):
            adapters = np.stack([self._base if run.adapter is None else run.adapter.addresses for run in runs])
        return _Rows(positions, positions + 1, slots, tables, adapters)


def as_array(tensor: torch.Tensor) -> Any:
    """The same memory for the loops of kernels.py: float32, or bfloat16 as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
