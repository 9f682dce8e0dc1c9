"""A causal language model of transformers with our attention, our LoRA and our pointwise parts in it.

For what `decoder` does not compute: other architectures, adapters with dropout or beside some layers only, CUDA. It is
also the slow and obvious form that `decoder` is tested against.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tunery.models.adapter_config import LoraConfig
from tunery.models.config import Sizes
from tunery.training.forward.attention import AttentionPlan
from tunery.training.forward.decoder import UnsupportedModel
from tunery.training.forward.head import Head
from tunery.training.forward.loading import load_model
from tunery.training.forward.lora import attach
from tunery.training.forward.memory import Scratch
from tunery.training.forward.packed_attention import packed
from tunery.training.forward.pointwise import fuse

ATTENTION = "tunery_packed"
# Models that bend their logits after the head: the chunked cross-entropy does not, so they are refused.
_LOGIT_TWISTS = ("final_logit_softcapping", "logit_scale", "logits_scaling")


class TransformersDecoder:
    def __init__(
        self, folder: Path, lora: LoraConfig, *, seed: int, device: str, dtype: torch.dtype, products: torch.dtype
    ) -> None:
        """Raises UnsupportedModel or UnsupportedAdapter."""
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention_forward)
        self.model = load_model(folder, dtype=dtype, device=device, attention=ATTENTION)
        config = self.model.config.get_text_config()
        for name in _LOGIT_TWISTS:
            if getattr(config, name, None) not in (None, 1.0):
                raise UnsupportedModel(f"The base model uses {name!r}, which the trainer does not have.")
        output = self.model.get_output_embeddings()
        if output is None or getattr(output, "bias", None) is not None:
            raise UnsupportedModel("The base model has no plain linear head, which the trainer needs.")
        self._scratch = Scratch(output.weight.device)
        self.adapters = attach(self.model, lora, seed, products)
        fuse(self.model)
        self.head = Head(output.weight, products, self._scratch)
        self.config = _sizes(config)

    def hidden(self, token_ids: Tensor, position_ids: Tensor, plan: AttentionPlan, predictors: Tensor) -> Tensor:
        """[M, E] after the final norm. token_ids and position_ids [N], predictors [M] places among the N."""
        states = self.model.base_model(
            input_ids=token_ids[None], position_ids=position_ids[None], use_cache=False, plan=plan
        ).last_hidden_state
        return states[0].index_select(0, predictors)

    def recompute(self, wanted: bool) -> None:
        if wanted and not self.model.is_activation_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        elif not wanted and self.model.is_activation_checkpointing:
            self.model.activation_checkpointing_disable()

    def release(self) -> None:
        self._scratch.release()

    def train(self, mode: bool) -> None:
        self.model.train(mode)


def _sizes(config: Any) -> Sizes:
    heads = config.num_attention_heads
    return Sizes(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab_size=config.vocab_size,
    )


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    plan: AttentionPlan | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls. Everything this attention cannot do is refused rather than left out.

    query [1, H, N, D], key and value [1, K, N, D] → [1, N, H, D]. Raises ValueError.
    """
    if plan is None:
        raise ValueError("Packed attention needs a plan: call the model with plan=…")
    window = kwargs.get("sliding_window")
    if window is not None and plan.max_position >= window:
        raise ValueError(f"This model looks back {window} tokens only; longer examples cannot be trained on it yet.")
    if dropout or kwargs.get("softcap") is not None:
        raise ValueError("This model's attention uses dropout or a soft cap, which packed attention does not have.")
    return packed(query, key, value, plan, scaling), None
