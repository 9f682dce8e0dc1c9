"""A model that a job would have left, in a home of its own."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.serving.peft_adapters import write_adapter
from tests.tiny_model import write_tiny_model
from tunery.export.spec import ExportSpec

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Say {n}."},
            {"role": "assistant", "content": f"Number {n}, of course."},
        ]
    }
    for n in range(6)
]


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With merges in its tokenizer, without which llama.cpp reads none."""
    return write_tiny_model(tmp_path_factory.mktemp("base"), (("o", "f"), ("Ġ", "c"), ("e", "r")))


@pytest.fixture(scope="session")
def tuned_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tiny_model_dir, tmp_path_factory.mktemp("tuned"), rank=4, modules=ALL, seed=5)


@pytest.fixture
def spec(tiny_model_dir: Path, tuned_dir: Path, tmp_path: Path) -> ExportSpec:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    return ExportSpec(
        name="ft:tiny:acme:s:abcdefgh",
        format="merged",
        source=f"path:{tiny_model_dir}",
        base="tiny",
        model_dir=tiny_model_dir,
        adapter_dir=tuned_dir,
        context_length=2048,
        completes=False,
        rows=rows,
        method="supervised",
    )


Change = Callable[..., ExportSpec]


@pytest.fixture
def changed(spec: ExportSpec) -> Change:
    return lambda **values: replace(spec, **values)
