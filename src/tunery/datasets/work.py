"""How much computing a training job is: floating-point operations from token counts and the model's shape."""

import json
from dataclasses import dataclass
from pathlib import Path

from tunery.datasets.report import TokenCounts
from tunery.domain.hyperparameters import ResolvedHyperparameters
from tunery.domain.jobs import Method

# Per parameter and token. A step goes forward, and backward to the activations: frozen weights have no gradient.
_FORWARD, _STEP = 2, 4


@dataclass(frozen=True)
class ModelShape:
    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    vocab: int
    tied: bool

    @classmethod
    def from_dir(cls, model_dir: Path) -> "ModelShape":
        """From config.json, by the names transformers uses for every llama-like model."""
        config = json.loads((model_dir / "config.json").read_text("utf-8"))
        heads = config["num_attention_heads"]
        return cls(
            num_layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            vocab=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings")),
        )

    @property
    def body_parameters(self) -> int:
        """Of the linear layers that every token passes."""
        kv_width = self.hidden * self.num_kv_heads // self.num_heads
        attention = self.hidden * (2 * self.hidden + 2 * kv_width)
        return self.num_layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_parameters(self) -> int:
        """Of the vocabulary head, which only trained positions pass."""
        return self.hidden * self.vocab

    @property
    def num_parameters(self) -> int:
        return self.body_parameters + self.head_parameters * (1 if self.tied else 2)

    def adapter_parameters(self, rank: int) -> int:
        """Of LoRA on all linear layers: rank × (in + out) of each."""
        kv_width = self.hidden * self.num_kv_heads // self.num_heads
        ends = 2 * (2 * self.hidden) + 2 * (self.hidden + kv_width) + 3 * (self.hidden + self.intermediate)
        return self.num_layers * rank * ends


@dataclass(frozen=True)
class EpochCounts:
    """What one pass over a training file holds; small enough to stand in a job's details."""

    num_examples: int
    num_tokens: int
    num_loss_tokens: int
    num_prefix_tokens: int  # every example begins with the same so many tokens

    @classmethod
    def of(cls, counts: TokenCounts, num_examples: int) -> "EpochCounts":
        return cls(num_examples, counts.tokens.total, counts.trained_tokens.total, counts.num_prefix_tokens)


def training_flop(counts: EpochCounts, chosen: ResolvedHyperparameters, *, method: Method, shape: ModelShape) -> float:
    """Of the whole job. A prefix that all rows of a step share is computed once a step."""
    steps = chosen.num_steps(counts.num_examples) / chosen.n_epochs
    computed = max(1.0, counts.num_tokens - counts.num_prefix_tokens * (counts.num_examples - steps))
    epoch = computed * shape.body_parameters + counts.num_loss_tokens * shape.head_parameters
    return epoch * (_STEP * chosen.n_epochs + (_FORWARD if method == "dpo" else 0))
