"""The same job on a CUDA device: bf16, FlexAttention, fused AdamW."""

from pathlib import Path

import pytest
import torch

from tunery.models.adapter_config import LoraConfig
from tunery.training.examples import TrainExample
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packing import Row
from tunery.training.methods.sft import Supervised
from tunery.training.optimizer import AdamW
from tunery.training.step import MicroBatchLimit, Stepper

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]


def losses(folder: Path, rows: list[Row], device: str) -> list[float]:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = TrainModel.load(folder, LoraConfig(rank=4, alpha=8), seed=1, device=device, dtype=dtype)
    model.train()
    optimizer = AdamW(model.parameters())
    stepper = Stepper(model, Supervised(), optimizer, MicroBatchLimit(4096))
    examples = [TrainExample((row,), len(row.token_ids)) for row in rows]
    return [stepper.step(examples, 1e-2).loss for _ in range(10)]


def test_the_loss_curve_is_that_of_the_cpu(tiny_model_dir: Path, rows: list[Row]) -> None:
    assert losses(tiny_model_dir, rows, "cuda") == pytest.approx(losses(tiny_model_dir, rows, "cpu"), rel=0.03)
