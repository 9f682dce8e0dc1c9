"""A tiny model in fp32 with an adapter that does something, and rows that share beginnings."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tunery.models.adapter_config import LoraConfig
from tunery.training.forward.model import TrainModel
from tunery.training.forward.packing import Row


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The models here are too small to share between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MakeModel = Callable[..., TrainModel]


@pytest.fixture
def make_model(tiny_model_dir: Path) -> MakeModel:
    def make(
        *,
        dropout: float = 0.0,
        dtype: torch.dtype = torch.float32,
        matmul_dtype: torch.dtype | None = None,
        blank: bool = False,
        fused: bool = True,
    ) -> TrainModel:
        config = LoraConfig(rank=4, alpha=8, dropout=dropout)
        model = TrainModel.load(
            tiny_model_dir, config, seed=1, device="cpu", dtype=dtype, matmul_dtype=matmul_dtype, fused=fused
        )
        if not blank:
            generator = torch.Generator().manual_seed(2)
            for layer in model.layers.values():
                with torch.no_grad():
                    layer.lora_B.normal_(std=0.05, generator=generator)
                layer.refresh()
        model.train()
        return model

    return make


@pytest.fixture
def rows() -> list[Row]:
    """Three levels: a shared system prompt, two shared questions, answers of unequal length, one stranger."""
    rng = random.Random(3)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(3, 250) for _ in range(count)]

    system, questions = tokens(40), [tokens(25), tokens(30)]
    prompts = [system + questions[index % 2] for index in range(6)] + [system, tokens(12)]
    made = []
    for number, prompt in enumerate(prompts):
        answer = tokens(5 + 4 * number)
        weights = [0.0] * len(prompt) + [1.0 if number % 3 else 0.5] * len(answer)
        made.append(Row(prompt + answer, weights))
    return made


def grads(model: TrainModel) -> list[torch.Tensor]:
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    for parameter in model.parameters():
        parameter.grad = None
    return found


def assert_grads_equal(one: list[torch.Tensor], two: list[torch.Tensor], tolerance: float) -> None:
    assert len(one) == len(two) > 0
    for first, second in zip(one, two, strict=True):
        scale = second.abs().max().clamp_min(1e-8)
        assert float((first - second).abs().max() / scale) < tolerance
