"""A forward over transformers' own modules, for what is not described in models.architecture: slower than model.py, and
good for any model of which only attention looks from one token to another.

The runs of a pass are one row of tokens, each at its own position. transformers' layers compute it; in the place of its
attention stands ours, which keeps keys and values in the cache's blocks and reads each run's own, and in the place of
each linear layer one that adds what the row's adapter does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tunery.domain.errors import InvalidRequest
from tunery.kernels import decode as kernels
from tunery.kernels import int8 as eight_bit
from tunery.kernels.compile import as_array, as_tensor, use_threads
from tunery.kernels.layers import ALL
from tunery.kernels.matmul_dtype import choose_matmul_dtype
from tunery.models import pretrained
from tunery.models.config import UnsupportedModel
from tunery.serving.forward.adapters import Adapter, Place, Places, load_adapter
from tunery.serving.forward.interface import Interrupted, Run, never
from tunery.serving.forward.kv import KeyValueCache, blocks_for
from tunery.serving.forward.linear import PackedLinear, Precision, shared
from tunery.serving.forward.lora import Lora, LoraPass
from tunery.serving.forward.spans import Span, slots_of, spans_of, tables_of

ATTENTION = "tunery_paged"
# What a model may hand to its attention that ours does not do.
_REFUSED = ("softcap", "s_aux", "position_bias")


@dataclass(frozen=True)
class _Kept:
    """What a model's attention keeps, and what it asks for: see _Look."""

    num_kv_heads: int
    head_dim: int
    layers: dict[nn.Module, int]  # in the order of their turns
    windowed: list[bool]  # of each, whether it asks for a window

    @property
    def num_layers(self) -> int:
        return len(self.layers)


@dataclass
class _Look:
    """Stands for attention once, to see who calls it with what."""

    shapes: set[tuple[int, int, int]] = field(default_factory=set[tuple[int, int, int]])
    layers: dict[nn.Module, int] = field(default_factory=dict[nn.Module, int])
    windowed: list[bool] = field(default_factory=list[bool])

    def attend(
        self, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **given: Any
    ) -> torch.Tensor:
        """query [1, H, N, D], key and value [1, K, N, D] → [1, N, H, D], zeros."""
        self.shapes.add((key.shape[1], key.shape[3], value.shape[3]))
        self.layers.setdefault(module, len(self.layers))
        self.windowed.append(given.get("window") is not None)
        return torch.zeros_like(query.transpose(1, 2))

    def kept(self) -> _Kept:
        """Raises UnsupportedModel."""
        if len(self.windowed) != len(self.layers) or len(self.shapes) != 1:
            raise UnsupportedModel("The model's layers do not each keep keys and values of one size.")
        ((num_heads, head_dim, value_dim),) = self.shapes
        if value_dim != head_dim:
            raise UnsupportedModel(f"The model keeps keys of {head_dim} numbers and values of {value_dim}.")
        return _Kept(num_heads, head_dim, self.layers, self.windowed)


@dataclass
class _Pass:
    """What the parts of the model that are ours must know of the pass they are in."""

    cache: KeyValueCache
    layers: dict[nn.Module, int]
    runs: list[Run]
    lora: LoraPass | None
    exact: bool
    should_stop: Callable[[], bool]
    is_decode: bool  # one token of each run
    spans: list[Span] = field(init=False)

    def __post_init__(self) -> None:
        self.blocks, self.offsets = slots_of(self.runs, self.cache.block_size)
        if self.is_decode:
            self.tables = tables_of(self.runs, self.cache.block_size)
            self.lengths = np.array([run.positions.stop for run in self.runs])
        else:
            self.spans = spans_of(self.runs, self.cache)

    def attend(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """query [1, H, N, D], key and value [1, K, N, D] → [1, N, H, D]. Raises Interrupted."""
        if self.should_stop():
            raise Interrupted
        layer = self.layers[module]
        keys_values = torch.cat([key[0], value[0]]).transpose(0, 1).flatten(1)
        self.cache.write(layer, self.blocks, self.offsets, keys_values)
        heads = query[0].transpose(0, 1)
        if self.is_decode:
            return self._attend_last(layer, heads.contiguous(), scale, window)[None]
        made = torch.cat([span.attend(layer, heads[span.rows], scale, window) for span in self.spans])
        return made.view(1, *heads.shape)

    def _attend_last(self, layer: int, heads: torch.Tensor, scale: float, window: int | None) -> torch.Tensor:
        """heads [B, H, D] → [B, H, D]."""
        made, cache = torch.empty_like(heads), as_array(self.cache.blocks)
        how = self.tables, self.lengths, window or ALL, np.float32(scale)
        kernels.attend(as_array(heads), cache, layer, *how, as_array(made))
        return made


def attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    paged: "_Pass | _Look | None" = None,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls. What this attention cannot do is refused rather than left out.

    query [1, H, N, D], key and value [1, K, N, D] → [1, N, H, D]. Raises UnsupportedModel.
    """
    if paged is None:
        raise UnsupportedModel("The model does not hand on to its attention what it is called with.")
    for name in _REFUSED:
        if given.get(name) is not None:
            raise UnsupportedModel(f"The model's attention uses {name!r}, which is not computed here.")
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    return paged.attend(module, query, key, value, scale, window=given.get("sliding_window")), None


class _Linear(nn.Module):
    """In the place of one of the model's."""

    def __init__(self, packed: PackedLinear, index: int, forward: "TransformersForward") -> None:
        super().__init__()
        self._packed, self._index = packed, index
        self._of = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] → [..., out]. Raises UnsupportedModel unless x is of all tokens of the pass."""
        current = self._of.current
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        if len(rows) != len(current.blocks):
            raise UnsupportedModel("A linear layer of the model is not asked for each token once.")
        plus = None if current.lora is None else current.lora(shared(rows), 0, self._index)
        made = self._packed.exact(rows, plus) if current.exact else self._packed.prompt(rows, plus)
        return made.view(*x.shape[:-1], -1)


class TransformersForward:
    """See interface.Forward."""

    current: _Pass

    def __init__(
        self, model_dir: Path, dtype: torch.dtype, *, precision: Precision | None, cache_bytes: int, block_size: int
    ) -> None:
        """Reads the weights, and compares what it computes with transformers. Raises InvalidRequest."""
        self.dtype = dtype
        self.precision: Precision = _choose(precision, dtype)
        self._matmul_dtype = choose_matmul_dtype(dtype, "cpu") if self.precision == "8bit" else dtype
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention_forward)
        try:
            model = pretrained.load_model(model_dir, dtype=dtype, attention=ATTENTION)
            weight, bias, self._factor = pretrained.head_of(model)
            self._body: Any = model.base_model
            self._kept = self._look()
            self.context_length = _context_length(model, self._kept.windowed)
            num_blocks = blocks_for(
                self._kept, block_size, dtype, num_bytes=cache_bytes, context_length=self.context_length
            )
            self.cache = KeyValueCache(self._kept, num_blocks, block_size, dtype)
            texts = pretrained.checked_texts(weight.shape[0])
            theirs = pretrained.as_transformers_does(model, texts, lambda ids: model(ids, use_cache=False).logits)
            self._head = PackedLinear(weight, bias, precision=self.precision)
            self._places = self._replace_linears(model)
            self._lora = Lora(self._places, self._matmul_dtype)
            self._check(texts, theirs)
        except UnsupportedModel as exc:
            raise InvalidRequest(f"{str(model_dir)!r} is not served: {exc}") from exc

    def _look(self) -> _Kept:
        look = _Look()
        with torch.inference_mode(), pretrained.its_own_code():
            self._body(input_ids=torch.tensor([[0, 1]]), use_cache=False, paged=look)
        return look.kept()

    def _replace_linears(self, model: PreTrainedModel) -> Places:
        places, widths = dict[str, Place](), list[tuple[int, ...]]()
        for index, (name, linear) in enumerate(pretrained.linears_of(model).items()):
            packed = PackedLinear(linear.weight, linear.bias, precision=self.precision, matmul_dtype=self._matmul_dtype)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _Linear(packed, index, self))
            places[name] = Place(0, index, 0, 0, (linear.in_features, linear.out_features))
            widths.append((linear.out_features,))
        return Places(places, 1, tuple(widths))

    def _check(self, texts: tuple[list[int], list[int]], theirs: list[torch.Tensor]) -> None:
        """Two texts at once, the longer in two pieces. theirs [T, V] each. Raises UnsupportedModel."""
        long, short = texts
        num_blocks, cut = -(-len(long) // self.cache.block_size), len(long) // 2
        table, other = list(range(num_blocks)), list(range(num_blocks, 2 * num_blocks))
        runs = [Run(long[:cut], 0, table, None), Run(short, 0, other, None)]
        with pretrained.its_own_code():
            first = self.prefill(runs, exact=True).split([cut, len(short)])
            rest = self.prefill([Run(long[cut:], cut, table, None)], exact=True)
        ours = [self.exact_logits(states) for states in (torch.cat([first[0], rest]), first[1])]
        pretrained.check_agrees(ours, theirs, "The engine")

    def read_adapter(self, folder: Path) -> Adapter:
        """See Forward. Raises InvalidRequest."""
        return load_adapter(folder, self._places, self.dtype)

    def warm_up(self) -> None:
        """See Forward."""
        self.decode([Run([0], 0, [0], Adapter({}, self._places.no_adapter))])

    @torch.inference_mode()
    def prefill(self, runs: list[Run], *, exact: bool = False, should_stop: Callable[[], bool] = never) -> torch.Tensor:
        """See Forward. → [N, E]. Raises Interrupted."""
        return self._hidden(runs, exact, should_stop, is_decode=False)

    def _hidden(
        self, runs: list[Run], exact: bool, should_stop: Callable[[], bool], *, is_decode: bool
    ) -> torch.Tensor:
        """[N, E]"""
        use_threads(torch.get_num_threads())
        lora = self._lora.over([(run.adapter, len(run.token_ids)) for run in runs])
        self.current = _Pass(self.cache, self._kept.layers, runs, lora, exact, should_stop, is_decode)
        states = self._body(
            input_ids=torch.tensor([[token for run in runs for token in run.token_ids]]),
            position_ids=torch.tensor([[position for run in runs for position in run.positions]]),
            use_cache=False,
            paged=self.current,
        ).last_hidden_state[0]
        return states if self._factor == 1 else states * self._factor

    @torch.inference_mode()
    def decode(self, runs: list[Run], *, should_stop: Callable[[], bool] = never) -> torch.Tensor:
        """See Forward. → [B, V]. Raises Interrupted."""
        return self.logits(self._hidden(runs, exact=False, should_stop=should_stop, is_decode=True))

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See Forward. hidden [N, E] → [N, V]."""
        return as_tensor(self._head(shared(hidden), np.float32))

    @torch.inference_mode()
    def exact_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See Forward. hidden [N, E] → [N, V]."""
        return self._head.exact(hidden).float()


def _choose(precision: Precision | None, dtype: torch.dtype) -> Precision:
    """Raises InvalidRequest."""
    if precision == "4bit":
        raise InvalidRequest("Weights of 4 bits are for described architectures: use 8bit or full.")
    if precision == "8bit" and not eight_bit.is_available():
        raise InvalidRequest("This processor does not multiply bytes (AVX2 or newer): use other weights.")
    return precision or ("8bit" if dtype is torch.bfloat16 and eight_bit.is_available() else "full")


def _context_length(model: PreTrainedModel, windowed: list[bool]) -> int:
    """Up to where each token sees all before it, or what its attention is told, and positions are turned as they are in
    shorter texts. Raises UnsupportedModel."""
    config = model.config.get_text_config()
    known = [getattr(config, "max_position_embeddings", None), getattr(config, "attention_chunk_size", None)]
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        known.append(rope.get("original_max_position_embeddings"))
    kinds = zip(getattr(config, "layer_types", None) or (), windowed, strict=False)
    if any(kind == "sliding_attention" and not is_windowed for kind, is_windowed in kinds):
        known.append(config.sliding_window)
    lengths = [length for length in known if length]
    if not lengths:
        raise UnsupportedModel("Its config.json does not say how long a text may be ('max_position_embeddings').")
    return min(lengths)
