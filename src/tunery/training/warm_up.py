"""Compiles the trainer's loops before a job waits for them: `python -m tunery.training.warm_up`.

On a new machine that takes some 20 seconds, which would come before a first job's first step. What was compiled is kept
(`kernels.compile`), so it is nothing from then on. Apart because it is a process of its own.
"""

import json
import sys
import tempfile
from pathlib import Path

from tunery.kernels import process

# The smallest model of the shape that the loops are compiled for; they are the same for every size.
_CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 32,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def main() -> int:
    """The exit status."""
    process.give_way()
    with tempfile.TemporaryDirectory(prefix="tunery-warm-up-") as folder:
        _write_model(Path(folder))
        _train(Path(folder))
    return 0


def _write_model(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from tunery.models.config import module_sizes, read_config

    (folder / "config.json").write_text(json.dumps(_CONFIG), "utf-8")
    config = read_config(folder)
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.0.{name}.weight": (out, inner) for name, (inner, out) in module_sizes(config).items()
    }
    shapes["model.embed_tokens.weight"] = (config.vocab_size, config.hidden_size)
    for name in ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"):
        shapes[f"{name}.weight"] = (config.hidden_size,)
    save_file(
        {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}, folder / "model.safetensors"
    )


def _train(folder: Path) -> None:
    """A step of rows that share a beginning and of such that do not, each with and without computing layers anew."""
    import torch

    from tunery.models.adapter_config import LoraConfig
    from tunery.training.examples import TrainExample
    from tunery.training.forward.model import TrainModel
    from tunery.training.forward.packing import Row
    from tunery.training.methods.sft import Supervised
    from tunery.training.optimizer import AdamW
    from tunery.training.step import MicroBatchLimit, Stepper

    if torch.cuda.is_available():
        return  # where the loops are not used
    model = TrainModel.load(folder, LoraConfig(rank=2, alpha=2), seed=0, device="cpu")
    model.train()
    alike = [[*range(30), number] for number in range(2)]
    different = [[number] * 20 for number in range(2)]
    for limit in (1024, 32):
        stepper = Stepper(model, Supervised(), AdamW(model.parameters()), MicroBatchLimit(limit))
        for rows in (alike, different):
            stepper.step([TrainExample((Row(ids, [1.0] * len(ids)),), len(ids)) for ids in rows], lr=0.0)


if __name__ == "__main__":
    sys.exit(main())
