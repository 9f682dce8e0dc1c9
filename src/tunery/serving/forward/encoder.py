"""The forward pass of BERT and its like, which read a whole text at once and give a vector for each token."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from tunery.domain.errors import InvalidRequest
from tunery.models.weight_files import WeightFiles

# By model_type: whether positions are counted from behind the padding's id, as RoBERTa does, or from 0.
ARCHITECTURES = {"bert": False, "roberta": True, "xlm-roberta": True}


@dataclass(frozen=True)
class _Layer:
    """[weight, bias] of each linear layer and norm."""

    qkv: tuple[torch.Tensor, torch.Tensor]
    attended: tuple[torch.Tensor, torch.Tensor]
    attended_norm: tuple[torch.Tensor, torch.Tensor]
    inner: tuple[torch.Tensor, torch.Tensor]
    outer: tuple[torch.Tensor, torch.Tensor]
    outer_norm: tuple[torch.Tensor, torch.Tensor]


class Encoder:
    """In fp32, one text at a time: computed beside others, its sums would be taken in another order, and the last bits
    of its vectors would tell who asked with it."""

    def __init__(self, model_dir: Path) -> None:
        """Reads the weights. Raises InvalidRequest for what is not computed here."""
        config = _read_config(model_dir)
        self._files = WeightFiles(model_dir, torch.float32)
        stem = next((stem for stem in ("", "bert.", "roberta.") if f"{stem}{_WORDS}.weight" in self._files), "")
        self._first_position = config["pad_token_id"] + 1 if ARCHITECTURES[config["model_type"]] else 0
        self.hidden_size: int = config["hidden_size"]
        self.max_tokens: int = config["max_position_embeddings"] - self._first_position
        self._num_heads: int = config["num_attention_heads"]
        self._eps: float = config["layer_norm_eps"]
        self._words = self._files.get(f"{stem}{_WORDS}.weight")
        self._positions = self._files.get(f"{stem}embeddings.position_embeddings.weight")
        self._kind = self._files.get(f"{stem}embeddings.token_type_embeddings.weight")[0]
        self._norm = self._pair(f"{stem}embeddings.LayerNorm")
        self._layers = [self._layer(f"{stem}encoder.layer.{index}.") for index in range(config["num_hidden_layers"])]

    def _pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [out, in], of a norm [E], and bias [out]."""
        return self._files.get(f"{name}.weight"), self._files.get(f"{name}.bias")

    def _layer(self, stem: str) -> _Layer:
        weights, biases = zip(
            *(self._pair(f"{stem}attention.self.{name}") for name in ("query", "key", "value")), strict=True
        )
        return _Layer(
            qkv=(torch.cat(weights), torch.cat(biases)),
            attended=self._pair(f"{stem}attention.output.dense"),
            attended_norm=self._pair(f"{stem}attention.output.LayerNorm"),
            inner=self._pair(f"{stem}intermediate.dense"),
            outer=self._pair(f"{stem}output.dense"),
            outer_norm=self._pair(f"{stem}output.LayerNorm"),
        )

    @torch.inference_mode()
    def __call__(self, ids: list[int]) -> torch.Tensor:
        """Hidden states [T, E] of the tokens of one text, special ones included; at most `max_tokens`."""
        positions = slice(self._first_position, self._first_position + len(ids))
        x = self._normed(self._words[torch.tensor(ids)] + self._positions[positions] + self._kind, self._norm)
        for layer in self._layers:
            x = self._normed(x + functional.linear(self._attend(x, layer), *layer.attended), layer.attended_norm)
            inner = functional.gelu(functional.linear(x, *layer.inner))
            x = self._normed(x + functional.linear(inner, *layer.outer), layer.outer_norm)
        return x

    def _attend(self, x: torch.Tensor, layer: _Layer) -> torch.Tensor:
        """[T, E] → [T, E]; every token sees every other."""
        qkv = functional.linear(x, *layer.qkv).view(x.shape[0], 3, self._num_heads, -1)
        query, key, value = qkv.permute(1, 2, 0, 3).unsqueeze(1)  # [1, H, T, D] each
        return functional.scaled_dot_product_attention(query, key, value).squeeze(0).transpose(0, 1).reshape(x.shape)

    def _normed(self, x: torch.Tensor, norm: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """[T, E] → [T, E]."""
        return functional.layer_norm(x, (self.hidden_size,), *norm, self._eps)


_WORDS = "embeddings.word_embeddings"


def _read_config(model_dir: Path) -> dict[str, Any]:
    try:
        config = json.loads((model_dir / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as exc:
        raise InvalidRequest(f"{str(model_dir)!r} is no folder of a model: {exc}") from exc
    kind, activation = config.get("model_type"), config.get("hidden_act", "gelu")
    if kind not in ARCHITECTURES:
        raise InvalidRequest(
            f"The engine embeds with {', '.join(sorted(ARCHITECTURES))}; {str(model_dir)!r} is a {kind!r} model."
        )
    if activation != "gelu":
        raise InvalidRequest(f"The engine computes GELU; {str(model_dir)!r} asks for {activation!r}.")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InvalidRequest(f"The engine computes absolute positions; {str(model_dir)!r} has others.")
    config.setdefault("layer_norm_eps", 1e-12)
    config.setdefault("pad_token_id", 0)
    return config
