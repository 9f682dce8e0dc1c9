import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.serving.peft_adapters import write_adapter
from tests.serving.running import LocalEngine
from tunery.serving.settings import EngineSettings

WriteAdapter = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def adapters(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of the tiny model as PEFT writes them: different ranks, different modules, strong enough to matter."""
    folder = tmp_path_factory.mktemp("adapters")
    everything = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    shapes = {
        "full": (4, everything),
        "wide": (8, everything),
        "attention": (2, ["q_proj", "v_proj"]),
        "mlp": (3, ["down_proj", "up_proj"]),
    }
    return {
        name: write_adapter(tiny_model_dir, folder / name, rank=rank, modules=modules, seed=seed)
        for seed, (name, (rank, modules)) in enumerate(shapes.items())
    }


def make_settings(model_dir: Path, **changes: object) -> EngineSettings:
    values: dict[str, object] = {
        "model_dir": model_dir,
        "served_names": ("base",),
        "host": "127.0.0.1",
        "port": 0,
        "dtype": "float32",
        "weights": "full",
        "max_adapters": 8,
        "cache_bytes": 0,  # the least: one full context
        "block_size": 16,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 256,
        "threads": 0,
        "log_level": "warning",
        "log_format": "text",
        "keep_alive_s": 75,
        "drain_s": 5,
        **changes,
    }
    return EngineSettings(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def settings(tiny_model_dir: Path) -> EngineSettings:
    return make_settings(tiny_model_dir)


@pytest.fixture
def engine(settings: EngineSettings, adapters: dict[str, Path]) -> Iterator[LocalEngine]:
    """An engine of the tiny model with every adapter loaded, spoken to without HTTP."""
    with LocalEngine(settings) as local:
        for name, folder in adapters.items():
            local.engine.load(name, folder).result(30)
        yield local
