"""The model as the trainer sees it: packed rows in, hidden states where something is predicted out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tunery.kernels import process
from tunery.kernels.matmul_dtype import choose_matmul_dtype
from tunery.models.adapter_config import LoraConfig
from tunery.models.config import Sizes
from tunery.training.forward.attention import AttentionPlan
from tunery.training.forward.decoder import Decoder, trainable_config
from tunery.training.forward.head import Head
from tunery.training.forward.inputs import HeadShape, PackedInputs
from tunery.training.forward.lora import LoraLinear

# A step's: two dozen for its number of tokens, seven for each shape of its attention. With fewer, each layer compiles.
_KEPT_MATMULS = 256


class Body(Protocol):
    """The decoder below the vocabulary head. Dimensions: N packed tokens, M of them that predict something."""

    head: Head
    lora: LoraConfig  # of the adapter, as it came to be
    adapters: dict[str, LoraLinear]  # by transformers' names of the modules

    @property
    def config(self) -> Sizes: ...

    def hidden(self, token_ids: Tensor, position_ids: Tensor, plan: AttentionPlan, predictors: Tensor) -> Tensor:
        """[M, E] after the final norm."""
        ...

    def recompute(self, wanted: bool) -> None:
        """Keep only the layers' inputs for the backward: half the speed, a tenth of the memory."""
        ...

    def release(self) -> None:
        """Give back what is held from one pass to the next."""
        ...

    def train(self, mode: bool) -> None: ...


@dataclass(frozen=True)
class TrainModel:
    body: Body
    shape: HeadShape
    matmul_dtype: torch.dtype

    @classmethod
    def load(
        cls,
        folder: Path,
        lora: LoraConfig,
        *,
        seed: int,
        device: str,
        dtype: torch.dtype = torch.bfloat16,
        matmul_dtype: torch.dtype | None = None,
        fused: bool = True,
    ) -> "TrainModel":
        """Base weights with a fresh adapter. `matmul_dtype`: the type to multiply in; None: the faster one, measured.

        fused=False leaves the layers to transformers: the slow reference.
        Raises UnsupportedModel or UnsupportedAdapter.
        """
        process.keep_matmuls(_KEPT_MATMULS)
        matmul_dtype = matmul_dtype or choose_matmul_dtype(dtype, device)
        config = trainable_config(folder, lora, device) if fused else None
        body: Body
        if config is not None:
            body = Decoder(folder, config, lora, seed=seed, dtype=dtype, matmul_dtype=matmul_dtype)
        else:  # takes seconds to import
            from tunery.training.forward.transformers_decoder import TransformersDecoder

            body = TransformersDecoder(folder, lora, seed=seed, device=device, dtype=dtype, matmul_dtype=matmul_dtype)
        return cls(body, HeadShape(body.config.num_heads, body.config.num_kv_heads, device), matmul_dtype)

    @property
    def config(self) -> Sizes:
        return self.body.config

    @property
    def head(self) -> Head:
        return self.body.head

    @property
    def layers(self) -> dict[str, LoraLinear]:
        return self.body.adapters

    def hidden(self, inputs: PackedInputs) -> Tensor:
        """[M, E] hidden states at the predictors, in the product type."""
        states = self.body.hidden(inputs.token_ids, inputs.position_ids, inputs.plan, inputs.predictors)
        return states.to(self.matmul_dtype)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for layer in self.layers.values() for parameter in (layer.lora_A, layer.lora_B)]

    def refresh(self) -> None:
        """After an optimizer step."""
        for layer in self.layers.values():
            layer.refresh()

    def train(self, mode: bool = True) -> None:
        """Dropout on or off."""
        self.body.train(mode)
