"""One token of each of many sequences: matrix products by torch, all between them by compiled loops.

`model.py` computes the same for many tokens at once, mostly by tensor operations: tests hold the two together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch

from tunery.kernels import decode as kernels
from tunery.kernels import layers as layer_loops
from tunery.kernels.compile import Array, as_array, use_threads
from tunery.models.config import ModelConfig
from tunery.serving.forward.interface import Interrupted, Run, never
from tunery.serving.forward.kv import KeyValueCache
from tunery.serving.forward.linear import PackedLinear, Shared, shared
from tunery.serving.forward.lora import Lora, LoraPass
from tunery.serving.forward.spans import tables_of
from tunery.serving.forward.weights import LayerWeights, ModelWeights


@dataclass(frozen=True)
class _Rows:
    """A step's rows as the loops read them."""

    positions: Array  # [B]
    lengths: Array  # [B]: positions to see
    tables: Array  # [B, blocks], filled with block 0
    lora: LoraPass | None


@dataclass(frozen=True)
class _Norms:
    """The weights of a layer's norms, see models.weight_files."""

    before_attention: Array
    before_mlp: Array
    after_attention: Array | None
    after_mlp: Array | None
    query: Array | None
    key: Array | None


class DecodePass:
    def __init__(
        self,
        config: ModelConfig,
        weights: ModelWeights,
        cache: KeyValueCache,
        ropes: list[tuple[torch.Tensor, torch.Tensor]],
        lora: Lora,
    ) -> None:
        """ropes: of each layer the tables of models.rope. [context, 1, rotary_dim] each."""
        self._config = config
        self._weights = weights
        self._block_size = cache.block_size
        self._cache = as_array(cache.blocks)
        self._norms = [_norms(layer) for layer in weights.layers]
        self._last_norm = as_array(weights.norm)
        self._eps = np.float32(config.rms_norm_eps)
        self._turns = [(as_array(cos.squeeze(1)), as_array(sin.squeeze(1))) for cos, sin in ropes]
        self._windows = [kind.window or layer_loops.ALL for kind in config.layers]
        self._scale, self._share = np.float32(config.attention_scale), np.float32(config.scales.residual)
        self._gate = layer_loops.gate if config.activation == "silu" else layer_loops.gate_gelu
        self._lora = lora

    def __call__(self, runs: list[Run], should_stop: Callable[[], bool] = never) -> torch.Tensor:
        """Hidden states [B, hidden] after the final norm. Raises Interrupted when `should_stop`, asked before each
        layer, says so."""
        use_threads(torch.get_num_threads())
        rows = self._rows(runs)
        embedded = self._weights.embed([run.token_ids[0] for run in runs])
        x, h, delta = as_array(embedded), shared(torch.empty_like(embedded)), as_array(torch.zeros_like(embedded))
        config = self._config
        attended = shared(h.tensor.new_empty(len(runs), config.num_heads * config.head_dim))
        inner = shared(h.tensor.new_empty(len(runs), config.intermediate_size))
        for index, (layer, norms) in enumerate(zip(self._weights.layers, self._norms, strict=True)):
            if should_stop():
                raise Interrupted
            kernels.add_norm(x, delta, self._share, norms.before_attention, self._eps, h.array)
            qkv = self._linear(layer.qkv, h, rows, index, 0)
            self._attend(qkv, norms, index, rows, attended.array)
            delta = self._normed(self._linear(layer.o, attended, rows, index, 1), norms.after_attention)
            kernels.add_norm(x, delta, self._share, norms.before_mlp, self._eps, h.array)
            gate_up = self._linear(layer.gate_up, h, rows, index, 2)
            self._gate(gate_up, inner.array)
            delta = self._normed(self._linear(layer.down, inner, rows, index, 3), norms.after_mlp)
        kernels.add_norm(x, delta, self._share, self._last_norm, self._eps, h.array)
        return h.tensor

    def _linear(self, linear: PackedLinear, x: Shared, rows: _Rows, layer: int, fused: int) -> Array:
        """x [B, in] → [B, out], with what each row's adapter adds."""
        return linear(x, plus=None if rows.lora is None else rows.lora(x, layer, fused))

    def _normed(self, delta: Array, weight: Array | None) -> Array:
        """In place, where there is a norm. delta [B, hidden], weight [hidden]."""
        if weight is not None:
            layer_loops.norm(delta, weight, self._eps, delta, np.empty(len(delta), np.float32))
        return delta

    def _attend(self, qkv: Array, norms: _Norms, layer: int, rows: _Rows, out: Array) -> None:
        """qkv [B, (H + 2K) · D], changed in place; out [B, H · D]."""
        config = self._config
        heads = qkv.reshape(len(qkv), -1, config.head_dim)
        if norms.query is not None and norms.key is not None:
            num_heads, num_normed = config.num_heads, config.num_heads + config.num_kv_heads
            layer_loops.norm_heads(heads, norms.query, norms.key, num_heads, num_normed, self._eps)
        kernels.rotate_and_keep(heads, *self._turns[layer], rows.positions, rows.tables, self._cache, layer)
        out = out.reshape(len(qkv), config.num_heads, config.head_dim)
        window = self._windows[layer]
        kernels.attend(heads, self._cache, layer, rows.tables, rows.lengths, window, self._scale, out)

    def _rows(self, runs: list[Run]) -> _Rows:
        positions = np.array([run.start for run in runs])
        lora = self._lora.over([(run.adapter, 1) for run in runs], long_run=inf)
        return _Rows(positions, positions + 1, tables_of(runs, self._block_size), lora)


def _norms(layer: LayerWeights) -> _Norms:
    arrays: dict[str, Any] = {
        place: None if weight is None else as_array(weight) for place, weight in vars(layer.norms).items()
    }
    return _Norms(**arrays)
