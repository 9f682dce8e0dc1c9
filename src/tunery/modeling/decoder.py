"""The llama family's decoder as the trainer computes it on a CPU.

transformers has the same model, and what this is tested against (transformers_decoder). It takes 110 MB and a second to
import, which is a tenth of a small job's memory, and knows nothing of a layer that computes only what is asked for.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tunery.domain.errors import InvalidRequest
from tunery.modeling.adapter_config import LINEAR_MODULES, LoraConfig
from tunery.modeling.attention import AttentionPlan
from tunery.modeling.compiled import use_threads
from tunery.modeling.config import ModelConfig, module_sizes, read_config
from tunery.modeling.frozen_head import Head
from tunery.modeling.fused import rms_norm
from tunery.modeling.fused_layer import FusedLayer, Place
from tunery.modeling.layer_memory import Kept, Scratch
from tunery.modeling.lora import LoraLinear
from tunery.modeling.rope import rope_frequencies
from tunery.modeling.weight_files import WeightFiles


def trainable_config(folder: Path, lora: LoraConfig, device: str) -> ModelConfig | None:
    """The configuration of a model that this decoder computes with such an adapter; None: it does not."""
    if device != "cpu" or lora.dropout or not set(LINEAR_MODULES) <= set(lora.target_modules):
        return None
    try:
        config = read_config(folder)
    except InvalidRequest:
        return None
    return None if config.is_windowed or config.has_qk_norm else config


class Decoder:
    """Frozen weights in memory of its own, a fresh adapter beside every linear layer."""

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        lora: LoraConfig,
        *,
        seed: int,
        dtype: torch.dtype,
        products: torch.dtype,
    ) -> None:
        """Raises InvalidRequest when a tensor is missing."""
        files, generator = WeightFiles(folder, dtype), torch.Generator().manual_seed(seed)
        self.config = config
        self.adapters: dict[str, LoraLinear] = {}  # by transformers' names of the modules
        self.recomputes = False
        self._scratch, self._kept = Scratch(), Kept()
        self._embedding = files.get("model.embed_tokens.weight").clone()
        for index in range(config.num_layers):
            for name, (num_in, num_out) in module_sizes(config).items():
                name = f"model.layers.{index}.{name}"
                self.adapters[name] = LoraLinear(_linear(files, name, num_in, num_out), lora, generator, products)
        self._layers = [self._layer(files, f"model.layers.{index}.") for index in range(config.num_layers)]
        self._norm = files.get("model.norm.weight").clone()
        weight = self._embedding if config.tie_word_embeddings else files.get("lm_head.weight").clone()
        self.head = Head(weight, products, self._scratch)
        self._frequencies = rope_frequencies(config.rope, config.head_dim)

    def _layer(self, files: WeightFiles, prefix: str) -> FusedLayer:
        members = {name: self.adapters[prefix + name] for name in module_sizes(self.config)}
        norms = [
            files.get(f"{prefix}{name}.weight").clone() for name in ("input_layernorm", "post_attention_layernorm")
        ]
        return FusedLayer(members, (norms[0], norms[1]), self.config, self._scratch)

    def hidden(self, token_ids: Tensor, position_ids: Tensor, plan: AttentionPlan, predictors: Tensor) -> Tensor:
        """[M, E] after the final norm. token_ids and position_ids [N], predictors [M] places among the N."""
        use_threads(torch.get_num_threads())
        x = self._embedding.index_select(0, token_ids)
        angles = torch.outer(position_ids.float(), self._frequencies)
        place = Place(angles.cos().to(x.dtype), angles.sin().to(x.dtype), plan)
        is_trained = torch.is_grad_enabled()
        self._kept.begin()
        for layer in self._layers:
            asked = predictors if layer is self._layers[-1] else None
            if not is_trained:
                x = self._alone(layer, x, place, asked)
            elif self.recomputes:
                x = checkpoint(self._alone, layer, x, place, asked, use_reentrant=False)  # type: ignore[assignment]
            else:
                x = layer(x, place, asked, self._kept)
        return rms_norm(x, self._norm, self.config.rms_norm_eps)

    def _alone(self, layer: FusedLayer, x: Tensor, place: Place, asked: Tensor | None) -> Tensor:
        """Only its result outlives the layer, or its backward if that follows at once."""
        self._kept.rewind()
        return layer(x, place, asked, self._kept)

    def recompute(self, wanted: bool) -> None:
        self.recomputes = wanted

    def train(self, mode: bool) -> None:
        """There is no dropout here."""


def _linear(files: WeightFiles, name: str, num_in: int, num_out: int) -> nn.Linear:
    """Frozen; its weight may still be a view of the file."""
    bias = files.find(f"{name}.bias")
    linear = nn.Linear(num_in, num_out, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(files.get(f"{name}.weight"), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return linear
