"""The forward passes: many tokens of few sequences (prefill, here), one token of many (decode.py)."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tunery.kernels import layers as layer_loops
from tunery.kernels.compile import as_array, use_threads
from tunery.models.config import ModelConfig
from tunery.models.rope import rope_tables
from tunery.serving.forward.adapters import Adapter, load_adapter, places_of
from tunery.serving.forward.decode import DecodePass
from tunery.serving.forward.interface import Interrupted, Run, never
from tunery.serving.forward.kv import KeyValueCache
from tunery.serving.forward.linear import PackedLinear, Precision, shared
from tunery.serving.forward.lora import Lora, LoraPass
from tunery.serving.forward.spans import Span, slots_of, spans_of
from tunery.serving.forward.weights import LayerWeights, ModelWeights


class Model:
    def __init__(self, config: ModelConfig, weights: ModelWeights, cache: KeyValueCache) -> None:
        self.config = config
        self.weights = weights
        self.cache = cache
        ropes = (None, *range(len(config.ropes)))
        tables = {
            rope: rope_tables(None if rope is None else config.ropes[rope], config.context_length, weights.dtype)
            for rope in ropes
        }
        self._turns = [tables[kind.rope] for kind in config.layers]
        self._places = places_of(config)
        self._lora = Lora(self._places, weights.matmul_dtype)
        self._decode = DecodePass(config, weights, cache, self._turns, self._lora)
        self._gate = layer_loops.gate if config.activation == "silu" else layer_loops.gate_gelu
        self._query_width = config.num_heads * config.head_dim
        self._rotated = config.num_heads + config.num_kv_heads

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.dtype

    @property
    def precision(self) -> Precision:
        return self.weights.precision

    def read_adapter(self, folder: Path) -> Adapter:
        """See Forward. Raises InvalidRequest."""
        return load_adapter(folder, self._places, self.dtype)

    def warm_up(self) -> None:
        """Compile the loops now rather than in the first answer."""
        run = Run([0], 0, [0], Adapter({}, self._places.no_adapter))
        self.prefill([run])
        self.decode([run])

    @torch.inference_mode()
    def prefill(self, runs: list[Run], *, exact: bool = False, should_stop: Callable[[], bool] = never) -> torch.Tensor:
        """See Forward. → [N, E]. Raises Interrupted."""
        use_threads(torch.get_num_threads())
        spans = spans_of(runs, self.cache)
        lora = self._lora.over([(run.adapter, len(run.token_ids)) for run in runs])
        linear = partial(self._linear, lora, exact)
        positions = torch.cat([torch.arange(run.positions.start, run.positions.stop) for run in runs])
        blocks, offsets = slots_of(runs, self.cache.block_size)
        x = self.weights.embed([token for run in runs for token in run.token_ids])
        turns: dict[int | None, tuple[torch.Tensor, torch.Tensor]] = {}
        for index, layer in enumerate(self.weights.layers):
            if should_stop():
                raise Interrupted
            qkv = linear(layer.qkv, self._norm(x, layer.norms.before_attention), index, 0)
            rope = self.config.layers[index].rope
            if rope not in turns:
                cos, sin = self._turns[index]
                turns[rope] = cos.index_select(0, positions), sin.index_select(0, positions)
            self._position(qkv, layer, *turns[rope])
            self.cache.write(index, blocks, offsets, qkv[:, self._query_width :])
            h = torch.cat([self._attend_span(index, qkv[span.rows, : self._query_width], span) for span in spans])
            x = self._join(x, linear(layer.o, h, index, 1), layer.norms.after_attention)
            gate_up = linear(layer.gate_up, self._norm(x, layer.norms.before_mlp), index, 2)
            inner = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
            self._gate(as_array(gate_up), as_array(inner))
            x = self._join(x, linear(layer.down, inner, index, 3), layer.norms.after_mlp)
        return self._norm(x, self.weights.norm)

    @torch.inference_mode()
    def decode(self, runs: list[Run], *, should_stop: Callable[[], bool] = never) -> torch.Tensor:
        """See Forward. → [B, V]. Raises Interrupted."""
        return self.logits(self._decode(runs, should_stop))

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See Forward. hidden [N, E] → [N, V]."""
        return torch.from_numpy(self.weights.head(shared(hidden), np.float32))

    @torch.inference_mode()
    def exact_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See Forward. hidden [N, E] → [N, V]."""
        return self.weights.head.exact(hidden).float()

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """x [N, E], weight [E] → [N, E]."""
        out, inverse = torch.empty_like(x), np.empty(x.shape[0], np.float32)
        eps = np.float32(self.config.rms_norm_eps)
        layer_loops.norm(as_array(x), as_array(weight), eps, as_array(out), inverse)
        return out

    def _join(self, x: torch.Tensor, made: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
        """x + share · made, or what its norm makes of it. x and made [N, E], norm [E] → [N, E]."""
        made = made if norm is None else self._norm(made, norm)
        return torch.add(x, made, alpha=self.config.scales.residual)

    def _linear(
        self, lora: LoraPass | None, exact: bool, linear: PackedLinear, x: torch.Tensor, layer: int, fused: int
    ) -> torch.Tensor:
        """x [N, in] → [N, out]."""
        plus = None if lora is None else lora(shared(x), layer, fused)
        return linear.exact(x, plus) if exact else linear.prompt(x, plus)

    def _position(self, qkv: torch.Tensor, layer: LayerWeights, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Norm (where the model has one) and rotate (where the layer does) queries and keys, in place.

        qkv [N, (H + 2K) · D]; cos, sin [N, 1, rotary_dim].
        """
        config, norms = self.config, layer.norms
        heads = qkv.view(qkv.shape[0], -1, config.head_dim)
        if norms.query is not None and norms.key is not None:
            weights = as_array(norms.query), as_array(norms.key)
            eps = np.float32(config.rms_norm_eps)
            layer_loops.norm_heads(as_array(heads), *weights, config.num_heads, self._rotated, eps)
        if cos.shape[-1]:
            rotate_(heads[:, : self._rotated, : cos.shape[-1]], cos, sin)

    def _attend_span(self, layer: int, query: torch.Tensor, span: Span) -> torch.Tensor:
        """query [N, H · D] → [N, H · D]."""
        heads = query.view(query.shape[0], self.config.num_heads, -1)
        return span.attend(layer, heads, self.config.attention_scale, self.config.layers[layer].window)


def rotate_(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """In place. heads [N, H, rotary_dim]; cos and sin [N, 1, rotary_dim]."""
    turned = heads.roll(heads.shape[-1] // 2, -1)
    heads.mul_(cos).addcmul_(turned, sin)
