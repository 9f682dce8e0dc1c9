"""The model as the trainer sees it: packed rows in, hidden states where something is predicted out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunery.modeling import attention, product_cache
from tunery.modeling.adapter_config import LoraConfig
from tunery.modeling.frozen_head import Head
from tunery.modeling.fused import fuse
from tunery.modeling.fused_layer import fuse_layers
from tunery.modeling.layer_memory import Scratch
from tunery.modeling.loading import load_model
from tunery.modeling.lora import LoraLinear, attach
from tunery.modeling.product_dtype import product_dtype
from tunery.training.inputs import HeadShape, PackedInputs

# A step's: two dozen for its number of tokens, seven for each shape of its attention. With fewer, each layer compiles.
_KEPT_PRODUCTS = 256
# Models that bend their logits after the head: the chunked cross-entropy does not, so they are refused.
_LOGIT_TWISTS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class UnsupportedModel(ValueError):
    """The base model needs something the trainer does not have; the message names it."""


@dataclass(frozen=True)
class TrainModel:
    model: PreTrainedModel
    layers: dict[str, LoraLinear]
    head: Head
    shape: HeadShape
    product_dtype: torch.dtype

    @property
    def config(self) -> Any:
        """transformers' configuration of the language model."""
        return self.model.config.get_text_config()

    @classmethod
    def load(
        cls,
        folder: Path,
        lora: LoraConfig,
        *,
        seed: int,
        device: str,
        dtype: torch.dtype = torch.bfloat16,
        products: torch.dtype | None = None,
        fused: bool = True,
    ) -> "TrainModel":
        """Base weights with a fresh adapter. `products`: the type to multiply in; None: the faster one, measured.

        fused=False leaves the layers to transformers: the slow reference.
        Raises UnsupportedModel or UnsupportedAdapter.
        """
        product_cache.keep_at_most(_KEPT_PRODUCTS)
        model = load_model(folder, dtype=dtype, device=device, attention=attention.NAME)
        config = model.config.get_text_config()
        for name in _LOGIT_TWISTS:
            if getattr(config, name, None) not in (None, 1.0):
                raise UnsupportedModel(f"The base model uses {name!r}, which the trainer does not have.")
        output = model.get_output_embeddings()
        if output is None or getattr(output, "bias", None) is not None:
            raise UnsupportedModel("The base model has no plain linear head, which the trainer needs.")
        products = products or product_dtype(dtype, device)
        layers, scratch = attach(model, lora, seed, products), Scratch()
        if device == "cpu" and fused:
            fuse_layers(model, scratch)
            _own_memory(model)
        fuse(model)
        shape = HeadShape(config.num_attention_heads, config.num_key_value_heads, device)
        return cls(model, layers, Head(output.weight, products, scratch), shape, products)

    def hidden(self, inputs: PackedInputs) -> Tensor:
        """[M, E] hidden states at the predictors, in the product type."""
        states = self.model.base_model(
            input_ids=inputs.token_ids, position_ids=inputs.position_ids, use_cache=False, plan=inputs.plan
        ).last_hidden_state
        return states[0].index_select(0, inputs.predictors).to(self.product_dtype)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for layer in self.layers.values() for parameter in (layer.lora_A, layer.lora_B)]

    def refresh(self) -> None:
        """After an optimizer step."""
        for layer in self.layers.values():
            layer.refresh()

    def train(self, mode: bool = True) -> None:
        """Dropout on or off."""
        self.model.train(mode)

    def recompute_layers(self, wanted: bool) -> None:
        """Keep only the layers' inputs for the backward: half the speed, a tenth of the memory."""
        if wanted and not self.model.is_activation_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        elif not wanted and self.model.is_activation_checkpointing:
            self.model.activation_checkpointing_disable()


def _own_memory(model: PreTrainedModel) -> None:
    """Copy what still lies in the mapped weights file, so that the mapping goes: the layers have their own copy now."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.is_contiguous():
                parameter.data = parameter.data.clone()
