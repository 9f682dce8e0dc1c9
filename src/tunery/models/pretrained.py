"""Causal language models over transformers' own modules: for all that is not described in `architecture`, and what our
own forms are tested against. Nothing comes from the net, and no code of a model's repository ever runs."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tunery.models.config import UnsupportedModel

# What bends logits behind the head: neither the trainer's loss, which goes by pieces of the vocabulary, nor the engine.
_LOGIT_TWISTS = ("final_logit_softcapping",)
# How far off the centred logits or hidden states may be, as a share of their norm: sums in another order.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


class Head(NamedTuple):
    weight: Tensor  # [V, E]
    bias: Tensor | None  # [V]
    factor: float  # of the product of the two


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    attention: str = "sdpa",
) -> PreTrainedModel:
    """With frozen weights, in eval mode: no progress bars, nothing from the net, safetensors only. A dropout of its own
    is left out: nothing of it is trained.

    `attention` is a name that transformers knows. Raises UnsupportedModel for what transformers does not know, and
    where weights are missing or of another shape: it would make them up.
    """
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with its_own_code():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=_config(folder),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
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
    nn.Module.to(model, device)
    return model.eval()


def _config(folder: Path) -> PreTrainedConfig:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for each in {id(each): each for each in (config, config.get_text_config())}.values():
        for name, value in list(vars(each).items()):
            if isinstance(value, float) and name.endswith(("dropout", "pdrop")):
                setattr(each, name, 0.0)
    return config


@contextmanager
def its_own_code() -> Iterator[None]:
    """What transformers, whose code for a model may do anything, raises for what it cannot do, as UnsupportedModel."""
    try:
        yield
    except (UnsupportedModel, MemoryError):
        raise
    except Exception as exc:
        reason = (str(exc).strip() or repr(exc)).partition("\n")[0]
        raise UnsupportedModel(f"transformers does not compute it so: {type(exc).__name__}: {reason}") from exc


def head_of(model: PreTrainedModel) -> Head:
    """Raises UnsupportedModel where it is no linear map."""
    config = model.config.get_text_config()
    for name in _LOGIT_TWISTS:
        if getattr(config, name, None) is not None:
            raise UnsupportedModel(f"The base model uses {name!r}, which is not computed here.")
    output = model.get_output_embeddings()
    if not isinstance(output, nn.Linear):
        raise UnsupportedModel("The base model has no plain linear head.")
    factor = getattr(config, "logit_scale", None) or 1.0  # Cohere's
    return Head(output.weight, output.bias, factor / (getattr(config, "logits_scaling", None) or 1.0))  # Granite's


def linears_of(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Beside what an adapter on all linear layers stands, by full names: not the head, and not what only some tokens
    pass."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and ".experts." not in name
    }


def check_agrees(ours: Sequence[Tensor], theirs: Sequence[Tensor], what: str) -> None:
    """Raises UnsupportedModel where texts came out otherwise than from the model as transformers computes it: it keeps
    what attention does not show, as a recurrent one, or attention is told of what ours does not do.

    [T, E] each."""
    for mine, wanted in zip(ours, theirs, strict=True):
        mine, wanted = (rows.float() - rows.float().mean(-1, keepdim=True) for rows in (mine, wanted))
        tolerance = _TOLERANCE.get(theirs[0].dtype, 0.1)
        if not (mine - wanted).norm() <= tolerance * wanted.norm():
            raise UnsupportedModel(f"{what} computes another thing than transformers for this architecture.")


def checked_texts(vocab_size: int) -> tuple[list[int], list[int]]:
    """Two of unequal length, which begin alike. Their tokens are any, of the upper half: no special ones."""
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randint(vocab_size // 2, vocab_size, (length,), generator=generator).tolist() for length in (24, 9)
    )
    return first, first[:6] + second


@torch.no_grad()
def as_transformers_does(
    model: PreTrainedModel, texts: Sequence[list[int]], read: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """With its own attention. `read`: from the ids [1, T] of a text → [1, T, …]; → [T, …] of each."""
    ours = model.config._attn_implementation or "eager"
    model.set_attn_implementation("eager")
    try:
        with its_own_code():
            return [read(torch.tensor([ids], device=model.device))[0] for ids in texts]
    finally:
        model.set_attn_implementation(ours)
