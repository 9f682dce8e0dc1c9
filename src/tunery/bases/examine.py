"""Whether a model can be a base here, by its small files: all that can be known without its weights. Needs no torch.

What only trying shows, such as an architecture that the trainer does not know, `bases.trial` finds.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery.chat.render import Renderer
from tunery.chat.template import RenderError
from tunery.domain.errors import InvalidRequest
from tunery.models.config import Sizes, read_sizes
from tunery.models.memory import machine_bytes, serving_bytes, training_bytes
from tunery.models.sources.base import Facts
from tunery.models.sources.whole import tensors_of
from tunery.texts import say
from tunery.texts.amounts import size

MAX_CONTEXT = 32_768  # tokens: what a machine without a graphics card still reads in minutes
MAX_EXAMPLE = 8_192  # tokens
MAX_SPARE = 0.1  # of the vocabulary that the tokenizer need not use: some pad it to a round number
SPARE_TOKENS = 4_096
LORA_RANK = 16


class Unusable(InvalidRequest):
    """The model cannot be a base here; the message says why, and what would help."""


@dataclass(frozen=True)
class Examined:
    sizes: Sizes
    context_length: int
    stop_tokens: tuple[str, ...]  # any of them ends an answer
    licence: str
    languages: tuple[str, ...]
    training_bytes: int  # of memory
    serving_bytes: int


def examine(folder: Path, facts: Facts, *, licence: str = "", lora_rank: int = 16) -> Examined:
    """`folder`: a model dir, whose weights need not be there yet; `licence`: the owner's word where it names none.
    Raises Unusable."""
    named = licence or facts.licence
    if not named:
        raise Unusable(say("base.no_licence"), param="licence", code="no_licence")
    if (folder / "modules.json").exists():
        raise Unusable(say("base.embeds"), param="source")
    config = _config(folder)
    try:
        sizes = read_sizes(folder)
    except InvalidRequest as exc:
        own = "auto_map" in config
        raise Unusable(say("base.own_code") if own else exc.message, param="source") from exc
    needs = training_bytes(sizes, lora_rank=lora_rank), serving_bytes(sizes)
    _check_memory(*needs)
    renderer = _renderer(folder)
    _check_vocabulary(folder, renderer, sizes)
    stops = _stop_tokens(renderer)
    context = min(config.get("max_position_embeddings") or MAX_EXAMPLE, MAX_CONTEXT)
    return Examined(sizes, context, stops, named, facts.languages, *needs)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise Unusable(say("base.no_config", reason=exc), param="source") from exc
    if not isinstance(config, dict) or not isinstance(config.get("max_position_embeddings") or 1, int):
        raise Unusable(say("base.no_config", reason="max_position_embeddings"), param="source")
    return config


def _check_memory(training: int, serving: int) -> None:
    there = machine_bytes()
    for needed, problem in ((serving, "base.too_large_to_serve"), (training, "base.too_large_to_train")):
        if needed > there:
            raise Unusable(say(problem, needed=size(needed), there=size(there)), param="source", code="base_too_large")


def _renderer(folder: Path) -> Renderer:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).exists():
            raise Unusable(say("base.no_tokenizer", file=name), param="source")
    try:
        renderer = Renderer.from_dir(folder)
    except FileNotFoundError as exc:
        raise Unusable(say("base.no_template"), param="source") from exc
    except Exception as exc:  # of the tokenizers library, which knows no class of its own, and of Jinja
        raise Unusable(say("base.unreadable", reason=exc), param="source") from exc
    turns = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Good day."}]
    try:
        renderer.prompt_ids(turns[:1])
        renderer.render_chat(turns)
    except RenderError as exc:
        raise Unusable(say("base.template_refused", reason=exc.message), param="source") from exc
    return renderer


def _check_vocabulary(folder: Path, renderer: Renderer, sizes: Sizes) -> None:
    """A tokenizer of another model gives ids that the weights lack, or leaves many of theirs unused."""
    ids = renderer.tokenizer.get_vocab(with_added_tokens=True).values()
    highest, rows = max(ids, default=-1), sizes.vocab_size
    if highest >= rows or rows - highest - 1 > max(SPARE_TOKENS, MAX_SPARE * rows):
        raise Unusable(say("base.other_tokenizer", tokens=highest + 1, rows=rows), param="source")
    for path in folder.glob("*.safetensors"):
        shape = tensors_of(path).get("model.embed_tokens.weight")
        if shape and shape[0] != rows:
            raise Unusable(say("base.other_weights", found=shape[0], rows=rows), param="source")


def _stop_tokens(renderer: Renderer) -> tuple[str, ...]:
    """What ends an answer must be what the template writes behind one, or a tuned model would never stop."""
    known = {ident: renderer.tokenizer.id_to_token(ident) for ident in sorted(renderer.eos_ids)}
    stops = tuple(token for token in known.values() if token)
    if not stops:
        raise Unusable(say("base.no_stop"), param="source")
    if renderer.end_of_turn not in stops:
        ends = renderer.end_of_turn or "–"
        raise Unusable(say("base.never_stops", ends=ends, stops=list(stops)), param="source")
    return stops
