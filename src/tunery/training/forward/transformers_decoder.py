"""A causal language model of transformers with our attention, our LoRA and our pointwise parts in it.

For what `decoder` does not compute: other architectures, adapters with dropout or beside some layers only, CUDA. It is
also the slow and obvious form that `decoder` is tested against.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging as transformers_logging

from tunery.kernels.layers import ALL
from tunery.models.adapter_config import LoraConfig
from tunery.models.config import sizes_of
from tunery.training.forward.attention import AttentionPlan
from tunery.training.forward.decoder import UnsupportedModel
from tunery.training.forward.head import Head
from tunery.training.forward.lora import attach
from tunery.training.forward.memory import Scratch
from tunery.training.forward.packed_attention import packed
from tunery.training.forward.pointwise import fuse

ATTENTION = "tunery_packed"
# Models that bend their logits after the head: the chunked cross-entropy does not, so they are refused.
_LOGIT_TWISTS = ("final_logit_softcapping", "logit_scale")


class TransformersDecoder:
    def __init__(
        self, folder: Path, lora: LoraConfig, *, seed: int, device: str, dtype: torch.dtype, matmul_dtype: torch.dtype
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
        self.adapters = attach(self.model, lora, seed, matmul_dtype)
        fuse(self.model)
        self.head = Head(output.weight, matmul_dtype, self._scratch)
        self.config = sizes_of(config.to_dict())
        self._divisor: float = getattr(config, "logits_scaling", None) or 1.0  # of logits, and the head is linear

    def hidden(self, token_ids: Tensor, position_ids: Tensor, plan: AttentionPlan, predictors: Tensor) -> Tensor:
        """[M, E] after the final norm. token_ids and position_ids [N], predictors [M] places among the N."""
        states = self.model.base_model(
            input_ids=token_ids[None], position_ids=position_ids[None], use_cache=False, plan=plan
        ).last_hidden_state
        asked = states[0].index_select(0, predictors)
        return asked if self._divisor == 1 else asked / self._divisor

    def recompute(self, wanted: bool) -> None:
        if wanted and not self.model.is_activation_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        elif not wanted and self.model.is_activation_checkpointing:
            self.model.activation_checkpointing_disable()

    def release(self) -> None:
        self._scratch.release()

    def train(self, mode: bool) -> None:
        self.model.train(mode)


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
    if window is None or plan.max_position <= window:
        window = ALL
    elif query.is_cuda:
        raise ValueError(f"This model looks back {window} tokens only; longer examples are trained on a CPU alone.")
    if dropout or kwargs.get("softcap") is not None:
        raise ValueError("This model's attention uses dropout or a soft cap, which packed attention does not have.")
    return packed(query, key, value, plan, scaling, window), None


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
) -> PreTrainedModel:
    """The causal language model with frozen weights, in eval mode: no progress bars, nothing from the net, safetensors
    only.

    `attention` is a name that transformers knows. Raises UnsupportedModel where weights are missing or of another
    shape: transformers would make them up.
    """
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        attn_implementation=attention,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused here, with their name
    )
    model, found = loaded
    if found["missing_keys"]:
        raise UnsupportedModel(f"The weights have no tensor {min(found['missing_keys'])!r}.")
    for name, in_file, wanted in found["mismatched_keys"]:
        raise UnsupportedModel(f"The tensor {name!r} is {tuple(in_file)}; config.json says {tuple(wanted)}.")
    model.requires_grad_(False)
    torch.nn.Module.to(model, device)
    return model.eval()
