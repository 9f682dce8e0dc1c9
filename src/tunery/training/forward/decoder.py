"""The decoder of the architectures that are described (models.architecture) as the trainer computes it on a CPU.

transformers computes the same, and this is tested against it (transformers_decoder). But it takes 110 MB and a second
to import, a tenth of a small job's memory, and knows no layer that computes only what is asked for.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from tunery.domain.errors import InvalidRequest
from tunery.kernels.compile import use_threads
from tunery.models.adapter_config import LoraConfig
from tunery.models.architecture import LayerKind
from tunery.models.config import ModelConfig, UnsupportedModel, module_sizes, read_config
from tunery.models.rope import rope_frequencies, rope_scale
from tunery.models.weight_files import WeightFiles
from tunery.training.forward.attention import AttentionPlan
from tunery.training.forward.fused_layer import FusedLayer, Positions
from tunery.training.forward.head import Head
from tunery.training.forward.lora import LoraLinear
from tunery.training.forward.memory import SavedActivations, Scratch
from tunery.training.forward.pointwise import rms_norm


def trainable_config(folder: Path, lora: LoraConfig, device: str) -> ModelConfig | None:
    """The configuration of a model that this decoder computes with such an adapter; None: it does not."""
    if device != "cpu" or lora.dropout or lora.targets("lm_head"):
        return None
    try:
        config = read_config(folder)
        has_our_names = "model.embed_tokens.weight" in WeightFiles(folder, torch.bfloat16)
    except InvalidRequest:
        return None
    if not has_our_names:
        return None
    modules = (f"model.layers.{layer}.{name}" for layer in range(config.num_layers) for name in module_sizes(config))
    return config if all(map(lora.targets, modules)) else None


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
        matmul_dtype: torch.dtype,
    ) -> None:
        """Raises UnsupportedModel when the weights are not those that the configuration describes."""
        self.config, self.lora = config, lora
        self.adapters: dict[str, LoraLinear] = {}  # by transformers' names of the modules
        self.recomputes = False
        self._scratch, self._kept = Scratch(), SavedActivations()
        self._ropes = [(rope_frequencies(rope), rope_scale(rope)) for rope in config.ropes]
        generator = torch.Generator().manual_seed(seed)
        try:
            files = WeightFiles(folder, dtype)
            embedding, head = files.embedding_and_head(config)
            self._embedding = embedding.clone()
            self.head = Head(self._embedding if head is embedding else head.clone(), matmul_dtype, self._scratch)
            self._layers = [
                self._layer(files, f"model.layers.{index}.", kind, lora, generator, matmul_dtype)
                for index, kind in enumerate(config.layers)
            ]
            self._norm = files.last_norm(config)
        except InvalidRequest as exc:
            raise UnsupportedModel(str(exc)) from exc

    def _layer(
        self,
        files: WeightFiles,
        prefix: str,
        kind: LayerKind,
        lora: LoraConfig,
        generator: torch.Generator,
        matmul_dtype: torch.dtype,
    ) -> FusedLayer:
        members: dict[str, LoraLinear] = {}
        for name, (num_in, num_out) in module_sizes(self.config).items():
            has_bias = name.rpartition(".")[2] in self.config.biased
            linear = _linear(files, prefix + name, num_in, num_out, has_bias)
            members[name] = self.adapters[prefix + name] = LoraLinear(
                prefix + name, linear, lora, generator, matmul_dtype
            )
        return FusedLayer(members, files.layer_norms(prefix, self.config), kind, self.config, self._scratch)

    def hidden(self, token_ids: Tensor, position_ids: Tensor, plan: AttentionPlan, predictors: Tensor) -> Tensor:
        """[M, E] after the final norm. token_ids and position_ids [N], predictors [M] places among the N."""
        use_threads(torch.get_num_threads())
        x = self._embedding.index_select(0, token_ids)
        if (scale := self.config.scales.embedding) != 1:
            x.mul_(torch.tensor(scale, dtype=x.dtype))
        positions = Positions([_turns(*rope, position_ids, x.dtype) for rope in self._ropes], plan)
        keeps = torch.is_grad_enabled() and not self.recomputes
        self._kept.begin()
        for layer in self._layers:
            asked = predictors if layer is self._layers[-1] else None
            x = layer(x, positions, asked, self._kept, keeps=keeps)
        return rms_norm(x, self._norm, self.config.rms_norm_eps)

    def recompute(self, wanted: bool) -> None:
        self.recomputes = wanted

    def release(self) -> None:
        self._kept.release()
        self._scratch.release()

    def train(self, mode: bool) -> None:
        """There is no dropout here."""


def _turns(frequencies: Tensor, scale: float, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [N, half] at the positions [N], of frequencies [half]."""
    angles = torch.outer(position_ids.float(), frequencies)
    cos, sin = angles.cos(), angles.sin()
    return (cos.to(dtype), sin.to(dtype)) if scale == 1 else ((cos * scale).to(dtype), (sin * scale).to(dtype))


def _linear(files: WeightFiles, name: str, num_in: int, num_out: int, has_bias: bool) -> nn.Linear:
    """Frozen; its weight may still be a view of the file."""
    linear = nn.Linear(num_in, num_out, bias=has_bias, device="meta")
    linear.weight = nn.Parameter(files.get(f"{name}.weight", (num_out, num_in)), requires_grad=False)
    if has_bias:
        linear.bias = nn.Parameter(files.get(f"{name}.bias", (num_out,)).clone(), requires_grad=False)
    return linear
