"""Reads a model dir's safetensors into fused and packed layers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from tunery.domain.errors import InvalidRequest
from tunery.kernels import int8 as eight_bit
from tunery.kernels.matmul_dtype import choose_matmul_dtype
from tunery.models.config import ModelConfig, module_sizes
from tunery.models.weight_files import LayerNorms, WeightFiles
from tunery.serving.forward.linear import PackedLinear, Precision, loses_nothing

STREAMED_ROWS = 4096  # of the head that are widened at a time


@dataclass(frozen=True)
class LayerWeights:
    norms: LayerNorms
    qkv: PackedLinear
    o: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear


@dataclass(frozen=True)
class ModelWeights:
    embedding: torch.Tensor  # [V, hidden]; of streamed weights as it lies in the file
    embedding_scale: float
    layers: Iterable[LayerWeights]
    norm: torch.Tensor
    head: PackedLinear
    dtype: torch.dtype
    matmul_dtype: torch.dtype  # of products that are not of bytes, see kernels.matmul_dtype
    precision: Precision

    def embed(self, token_ids: list[int]) -> torch.Tensor:
        """[N, hidden], no view."""
        x = self.embedding.index_select(0, torch.tensor(token_ids)).to(self.dtype)
        return x if self.embedding_scale == 1 else x.mul_(torch.tensor(self.embedding_scale, dtype=x.dtype))


@dataclass(frozen=True)
class StreamedLayers:
    """Each is read when its turn comes and let go after it: for one pass over a model that memory need not hold."""

    read: Callable[[int], LayerWeights]
    num_layers: int

    def __iter__(self) -> Iterator[LayerWeights]:
        return map(self.read, range(self.num_layers))


def load_weights(
    model_dir: Path, config: ModelConfig, dtype: torch.dtype, *, precision: Precision | None, streamed: bool = False
) -> ModelWeights:
    """`precision` None: what is fastest here and loses next to nothing. `streamed`: layers are not kept in memory.
    Raises InvalidRequest."""
    if precision == "8bit" and not eight_bit.is_available():
        raise InvalidRequest("This processor does not multiply bytes (AVX2 or newer): use other weights.")
    tensors = WeightFiles(model_dir, dtype)
    precision = precision or _choose(tensors, config, dtype)
    matmul_dtype = choose_matmul_dtype(dtype, "cpu") if precision == "8bit" else dtype
    linear = partial(PackedLinear, precision=precision, matmul_dtype=matmul_dtype)
    # Too large to be widened, and never worth 4 bits.
    whole = partial(PackedLinear, precision="full" if precision == "4bit" else precision)
    embedding, head = (WeightFiles(model_dir, None) if streamed else tensors).embedding_and_head(config)

    def layer(index: int) -> LayerWeights:
        # Files that stay open keep all that was read of them in memory.
        return _layer(WeightFiles(model_dir, dtype) if streamed else tensors, config, index, linear)

    layers = StreamedLayers(layer, config.num_layers)
    return ModelWeights(
        embedding=embedding,
        embedding_scale=config.scales.embedding,
        layers=layers if streamed else list(layers),
        norm=tensors.last_norm(config),
        head=whole(head, matmul_dtype=dtype, members=head.split(STREAMED_ROWS)) if streamed else whole(head),
        dtype=dtype,
        matmul_dtype=matmul_dtype,
        precision=precision,
    )


def _choose(tensors: WeightFiles, config: ModelConfig, dtype: torch.dtype) -> Precision:
    if dtype is not torch.bfloat16:
        return "full"  # who asks for float32 wants what float32 gives
    if eight_bit.is_available():
        return "8bit"
    return "4bit" if all(loses_nothing(weight) for weight in _probe(tensors, config)) else "full"


def _probe(tensors: WeightFiles, config: ModelConfig) -> Iterator[torch.Tensor]:
    """One layer's weights stand for all: a file's linear layers are quantised alike. [out, in] each."""
    for module in module_sizes(config):
        yield tensors.get(f"model.layers.{config.num_layers // 2}.{module}.weight")


def _layer(
    tensors: WeightFiles,
    config: ModelConfig,
    index: int,
    linear: Callable[..., PackedLinear],
) -> LayerWeights:
    """linear: from weight [out, in] and bias [out]."""
    prefix = f"model.layers.{index}."

    def fused(product: str) -> PackedLinear:
        members = config.linears[product]
        weights = [tensors.get(f"{prefix}{module}.weight") for module in members]
        has_bias = members[0].rpartition(".")[2] in config.biased
        bias = torch.cat([tensors.get(f"{prefix}{module}.bias") for module in members]) if has_bias else None
        return linear(torch.cat(weights), bias, members=weights)

    norms = tensors.layer_norms(prefix, config)
    return LayerWeights(norms, qkv=fused("qkv"), o=fused("o"), gate_up=fused("gate_up"), down=fused("down"))
