"""A causal language model of transformers with our attention, our LoRA and our pointwise parts in it.

For what `decoder` does not compute: other architectures, adapters with dropout or beside some layers only, CUDA. It is
also the slow and obvious form that `decoder` is tested against.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tunery.kernels.layers import ALL
from tunery.models import pretrained
from tunery.models.adapter_config import ALL_LINEAR, LoraConfig
from tunery.models.config import UnsupportedModel, is_described, sizes_of
from tunery.training.forward.attention import AttentionPlan
from tunery.training.forward.head import Head
from tunery.training.forward.inputs import HeadShape, pack
from tunery.training.forward.lora import attach
from tunery.training.forward.memory import Scratch
from tunery.training.forward.packed_attention import packed
from tunery.training.forward.packing import Row
from tunery.training.forward.pointwise import fuse

ATTENTION = "tunery_packed"


class TransformersDecoder:
    def __init__(
        self, folder: Path, lora: LoraConfig, *, seed: int, device: str, dtype: torch.dtype, matmul_dtype: torch.dtype
    ) -> None:
        """Raises UnsupportedModel or UnsupportedAdapter."""
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention_forward)
        self.model = pretrained.load_model(folder, dtype=dtype, device=device, attention=ATTENTION)
        weight, bias, self._factor = pretrained.head_of(self.model)
        try:
            self.config = sizes_of(self.model.config.get_text_config().to_dict())
        except KeyError as exc:
            raise UnsupportedModel(f"The configuration of the base model does not say {exc.args[0]!r}.") from exc
        self._scratch = Scratch(weight.device)
        if not is_described(folder):  # else tests hold it equal
            self._check()
        if lora.target_modules == ALL_LINEAR:
            ends = {name.rpartition(".")[2] for name in pretrained.linears_of(self.model)}
            lora = replace(lora, target_modules=tuple(sorted(ends)))
        self.lora = lora
        self.adapters = attach(self.model, lora, seed, matmul_dtype)
        fuse(self.model)
        self.head = Head(weight, matmul_dtype, self._scratch, bias)

    @torch.no_grad()
    def _check(self) -> None:
        """That two texts in one packed row, their beginning once, come out as each by itself. Raises UnsupportedModel,
        or what the model's own code raises for what it cannot do."""
        texts = pretrained.checked_texts(self.config.vocab_size)
        shape = HeadShape(self.config.num_heads, self.config.num_kv_heads, str(self.model.device))
        rows = [Row([*ids, 0], [0.0] + [1.0] * len(ids)) for ids in texts]
        theirs = pretrained.as_transformers_does(
            self.model, texts, lambda ids: self.model.base_model(ids, use_cache=False).last_hidden_state
        )
        with pretrained.its_own_code():
            inputs = pack(rows, shape)
            states = self.hidden(inputs.token_ids, inputs.position_ids, inputs.plan, inputs.predictors)
        ours = (states / self._factor).split([len(ids) for ids in texts])
        pretrained.check_agrees(ours, theirs, "The trainer")

    def hidden(self, token_ids: Tensor, position_ids: Tensor, plan: AttentionPlan, predictors: Tensor) -> Tensor:
        """[M, E] after the final norm. token_ids and position_ids [N], predictors [M] places among the N."""
        states = self.model.base_model(
            input_ids=token_ids[None], position_ids=position_ids[None], use_cache=False, plan=plan
        ).last_hidden_state
        asked = states[0].index_select(0, predictors)
        return asked if self._factor == 1 else asked * self._factor

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
