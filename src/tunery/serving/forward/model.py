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
        self.mask: torch.Tensor | None = None
        if run.start:
            queries = torch.arange(run.start, self.num_positions).unsqueeze(1)
            future = torch.arange(self.num_positions) > queries
            self.mask = torch.zeros(future.shape, dtype=dtype).masked_fill_(future, float("-inf"))


class Model:
    def __init__(self, config: ModelConfig, weights: ModelWeights, cache: KeyValueCache) -> None:
        self.config = config
        self.weights = weights
        self.cache = cache
        self._cos, self._sin = rope_tables(config, weights.dtype)
        self._decode = DecodePass(config, weights, cache, (self._cos, self._sin))
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
        ids = torch.tensor([token for run in runs for token in run.token_ids])
        positions = torch.cat([torch.arange(run.start, run.start + len(run.token_ids)) for run in runs])
        places = torch.tensor([place for run in runs for place in _places(run, block_size)])
        blocks, offsets = places.unbind(1)
        x = self.weights.embedding.index_select(0, ids)
        cos, sin = self._cos.index_select(0, positions), self._sin.index_select(0, positions)
        for index, layer in enumerate(self.weights.layers):
            if should_stop():
                raise Interrupted
            qkv = linear(layer.qkv, self._norm(x, layer.input_norm), index, 0)
            self._position(qkv, layer, cos, sin)
            self.cache.write(index, blocks, offsets, qkv[:, self._query_width :])
            h = torch.cat([self._attend_span(index, qkv[span.rows, : self._query_width], span) for span in spans])
            x = x + linear(layer.o, h, index, 1)
            gate_up = linear(layer.gate_up, self._norm(x, layer.post_norm), index, 2)
            inner = gate_up.new_empty(first, gate_up.shape[1] // 2)
            layer_loops.gate(as_array(gate_up), as_array(inner))
            x = x + linear(layer.down, inner, index, 3)
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

    def _linear(
        self, lora: LoraPass | None, exact: bool, linear: PackedLinear, x: torch.Tensor, layer: int, fused: int
    ) -> torch.Tensor:
        """x [N, in] → [N, out]."""
        plus = None if lora is None else lora(shared(x), layer, fused)
        return linear.exact(x, plus) if exact else linear.prompt(x, plus)

    def _position(self, qkv: torch.Tensor, layer: LayerWeights, cos: torch.Tensor, sin: torch.Tensor) -> None:
        """Norm (where the model has one) and rotate queries and keys, in place. qkv [N, (H + 2K) · D].

        cos, sin [N, 1, D].
        """
        config = self.config
        heads = qkv.view(qkv.shape[0], -1, config.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            parts = (slice(0, config.num_heads), layer.q_norm), (slice(config.num_heads, self._rotated), layer.k_norm)
            for part, weight in parts:
                heads[:, part] = functional.rms_norm(heads[:, part], weight.shape, weight, config.rms_norm_eps)
        rotate_(heads[:, : self._rotated], cos, sin)

    def _attend_span(self, layer: int, query: torch.Tensor, span: _Span) -> torch.Tensor:
        """query [N, H · D] → [N, H · D]."""
        keys, values = self.cache.read(layer, span.table)
        q = query.view(1, query.shape[0], self.config.num_heads, -1).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(
            q,
            keys[:, :, : span.num_positions],
            values[:, :, : span.num_positions],
            attn_mask=span.mask,
            is_causal=span.mask is None,
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
    """In place. heads [N, H, D]; cos and sin [N, 1, D]."""
    turned = heads.roll(heads.shape[-1] // 2, -1)
    heads.mul_(cos).addcmul_(turned, sin)
