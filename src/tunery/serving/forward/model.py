"""The forward passes: many tokens of few sequences (prefill, here), one token of many (decode.py)."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from tunery.kernels import layers as layer_loops
from tunery.kernels.compile import as_array, use_threads
from tunery.models.config import ModelConfig
from tunery.models.rope import rope_tables
from tunery.serving.forward.adapters import Adapter, no_adapter
from tunery.serving.forward.decode import DecodePass, Interrupted, Run, never
from tunery.serving.forward.kv import KeyValueCache
from tunery.serving.forward.linear import PackedLinear, shared
from tunery.serving.forward.lora import Lora, LoraPass
from tunery.serving.forward.weights import LayerWeights, ModelWeights


class _Span:
    """A run of a prefill pass as the attention needs it."""

    def __init__(self, run: Run, first: int, block_size: int, dtype: torch.dtype) -> None:
        self.rows = slice(first, first + len(run.token_ids))
        self.num_positions = run.start + len(run.token_ids)
        self.table = torch.tensor([run.block_table[: -(-self.num_positions // block_size)]])
        self._start, self._dtype = run.start, dtype
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def mask(self, window: int | None) -> torch.Tensor | None:
        """[T, positions], to be added to the scores; None: each token sees all up to itself."""
        window = window if window is not None and window < self.num_positions else None
        if window not in self._masks:
            self._masks[window] = self._mask(window) if window or self._start else None
        return self._masks[window]

    def _mask(self, window: int | None) -> torch.Tensor:
        """[T, positions]."""
        queries, keys = torch.arange(self._start, self.num_positions).unsqueeze(1), torch.arange(self.num_positions)
        hidden = keys > queries
        if window is not None:
            hidden |= keys <= queries - window
        return torch.zeros(hidden.shape, dtype=self._dtype).masked_fill_(hidden, float("-inf"))


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
        self._decode = DecodePass(config, weights, cache, self._turns)
        self._gate = layer_loops.gate if config.activation == "silu" else layer_loops.gate_gelu
        self._lora = Lora(config, weights.matmul_dtype)
        self._query_width = config.num_heads * config.head_dim
        self._rotated = config.num_heads + config.num_kv_heads

    def warm_up(self) -> None:
        """Compile the loops now rather than in the first answer. Writes to block 0, which must be free."""
        run = Run([0], 0, [0], Adapter({}, no_adapter(self.config)))
        self.prefill([run])
        self.decode([run])

    @torch.inference_mode()
    def prefill(self, runs: list[Run], *, exact: bool = False, should_stop: Callable[[], bool] = never) -> torch.Tensor:
        """Hidden states [N, hidden] of all tokens, after the final norm. Their keys and values are in the cache.

        `exact`: with the weights as they were given. Raises Interrupted when `should_stop`, asked before each layer,
        says so.

        Runs may read blocks that other runs of the same call write: a layer's keys are all written before one is read.
        """
        block_size = self.cache.block_size
        use_threads(torch.get_num_threads())
        spans: list[_Span] = []
        first = 0
        for run in runs:
            spans.append(_Span(run, first, block_size, self.weights.dtype))
            first = spans[-1].rows.stop
        lora = self._lora.over([(run.adapter, len(run.token_ids)) for run in runs])
        linear = partial(self._linear, lora, exact)
        positions = torch.cat([torch.arange(run.start, run.start + len(run.token_ids)) for run in runs])
        places = torch.tensor([place for run in runs for place in _places(run, block_size)])
        blocks, offsets = places.unbind(1)
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
            inner = gate_up.new_empty(first, gate_up.shape[1] // 2)
            self._gate(as_array(gate_up), as_array(inner))
            x = self._join(x, linear(layer.down, inner, index, 3), layer.norms.after_mlp)
        return self._norm(x, self.weights.norm)

    @torch.inference_mode()
    def decode(self, runs: list[Run], *, should_stop: Callable[[], bool] = never) -> torch.Tensor:
        """Logits [B, V] in fp32 after one token of each run. Raises Interrupted as `prefill` does."""
        return self.logits(self._decode(runs, should_stop))

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """To draw from: [N, hidden] → [N, V] in fp32."""
        return torch.from_numpy(self.weights.head(shared(hidden), np.float32))

    @torch.inference_mode()
    def exact_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """To score with: the same from the weights as they were given. hidden [N, E] → [N, V] in fp32."""
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

    def _attend_span(self, layer: int, query: torch.Tensor, span: _Span) -> torch.Tensor:
        """query [N, H · D] → [N, H · D]."""
        keys, values = self.cache.read(layer, span.table)
        q = query.view(1, query.shape[0], self.config.num_heads, -1).transpose(1, 2)
        mask = span.mask(self.config.layers[layer].window)
        attended = functional.scaled_dot_product_attention(
            q,
            keys[:, :, : span.num_positions],
            values[:, :, : span.num_positions],
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.config.attention_scale,
            enable_gqa=True,
        )
        return attended.transpose(1, 2).reshape(query.shape)


def _places(run: Run, block_size: int) -> list[tuple[int, int]]:
    """Block and offset of each of its tokens."""
    return [
        (run.block_table[position // block_size], position % block_size)
        for position in range(run.start, run.start + len(run.token_ids))
    ]


def rotate_(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """In place. heads [N, H, rotary_dim]; cos and sin [N, 1, rotary_dim]."""
    turned = heads.roll(heads.shape[-1] // 2, -1)
    heads.mul_(cos).addcmul_(turned, sin)
