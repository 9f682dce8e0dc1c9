"""The tensors of a model dir's safetensors files, by name."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from tunery.domain.errors import InvalidRequest
from tunery.models.architecture import HEAD_NORMS
from tunery.models.config import ModelConfig

_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class LayerNorms:
    """The weights of a layer's norms; None: it has none there."""

    before_attention: torch.Tensor  # [E], as are the next three
    before_mlp: torch.Tensor
    after_attention: torch.Tensor | None = None  # on what it adds to the residual stream
    after_mlp: torch.Tensor | None = None
    query: torch.Tensor | None = None  # [D], of each head
    key: torch.Tensor | None = None


class WeightFiles:
    """Raises InvalidRequest where there are none."""

    def __init__(self, model_dir: Path, dtype: torch.dtype | None) -> None:
        """dtype None: each in its own."""
        self._dtype = dtype
        self._files = [safe_open(path, framework="pt") for path in sorted(model_dir.glob("*.safetensors"))]
        self._file_of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 - no mapping
        if not self._file_of:
            raise InvalidRequest(f"{str(model_dir)!r} holds no .safetensors file.")

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def get(self, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """A view of the file where its type is the wanted one.

        Raises InvalidRequest where it is missing, of another shape, or of a type whose numbers need scales.

        Of any shape.
        """
        if name not in self:
            raise InvalidRequest(f"The weights have no tensor {name!r}.")
        tensor = self._file_of[name].get_tensor(name)
        if shape is not None and tensor.shape != shape:
            raise InvalidRequest(f"The tensor {name!r} is {tuple(tensor.shape)}; config.json says {shape}.")
        if tensor.dtype not in _PLAIN:
            raise InvalidRequest(f"The tensor {name!r} holds {tensor.dtype}: only weights in plain floats are read.")
        return tensor if self._dtype is None else tensor.to(self._dtype)

    def layer_norms(self, prefix: str, config: ModelConfig) -> LayerNorms:
        """Of the layer whose tensors' names begin so."""
        return LayerNorms(
            **{
                place: self._norm(prefix + name, config, config.head_dim if place in HEAD_NORMS else config.hidden_size)
                for place, name in config.norms.items()
            }
        )

    def last_norm(self, config: ModelConfig) -> torch.Tensor:
        """[E]. What the logits are scaled with is part of it: the head is linear."""
        norm = self._norm("model.norm", config, config.hidden_size)
        return norm if config.scales.logits == 1 else norm.float() * config.scales.logits

    def _norm(self, name: str, config: ModelConfig, size: int) -> torch.Tensor:
        """[size], no view. With an offset in fp32: a narrower type keeps less of the sum than of the weight."""
        weight = self.get(f"{name}.weight", (size,))
        return weight.float() + config.norm_offset if config.norm_offset else weight.clone()

    def embedding_and_head(self, config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
        """[V, E] each, and the same tensor where they are one. Files of a tied model may hold an untied head."""
        shape = (config.vocab_size, config.hidden_size)
        embedding = self.get("model.embed_tokens.weight", shape)
        if config.tie_word_embeddings and "lm_head.weight" not in self:
            return embedding, embedding
        head = self.get("lm_head.weight", shape)
        return embedding, embedding if config.tie_word_embeddings and torch.equal(head, embedding) else head
