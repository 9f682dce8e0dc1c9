"""Merging needs the largest tensor and not the model, and proving what was merged less than twice the weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tunery.export.spec import ExportSpec, save_spec
from tunery.models.adapter_config import LoraConfig
from tunery.models.adapter_files import AdapterFiles, Matrices, write_adapter
from tunery.models.config import module_sizes, read_config

HIDDEN, INNER, RANK = 4096, 11008, 16  # of a model of 7 billion weights
SHARD_BYTES = 200_000_000
BEGIN = """
import ctypes, pathlib, re, sys
from tunery.export import write
from tunery.export.spec import load_spec
from tunery.models.config import read_config

def memory(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024

def begin():
    # Libraries are locked into memory: pages of theirs that the system has taken back would count when they return.
    lock = ctypes.CDLL(None).mlock
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(place, 16) for place in line.split()[0].split("-"))
        if ".so" in line:
            lock(ctypes.c_void_p(start), ctypes.c_size_t(end - start))
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    return memory("VmRSS")
"""
WRITE = """
base, adapter, to = map(pathlib.Path, sys.argv[1:4])
found = write.read_fitting(adapter, read_config(base))
before = begin()
write.write_merged(base, found, to, lambda *_: None, shard_bytes=int(sys.argv[4]))
print(memory("VmHWM") - before)
"""
EXPORT = """
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama import modeling_llama
spec, to = map(pathlib.Path, sys.argv[1:3])
before = begin()
report = write.export(load_spec(spec), to, lambda *_: None)
assert report["proof"]["num_tokens"] > 100
print(memory("VmHWM") - before)
"""


def peak_of(script: str, *arguments: object) -> int:
    """Of a process of its own, over what it had at rest, in bytes; pages of files that are looked at included."""
    command = [sys.executable, "-c", BEGIN + script, *map(str, arguments)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def random_adapter(sizes: dict[str, tuple[int, int]], folder: Path) -> None:
    matrices = {name: Matrices(torch.randn(RANK, size[0]), torch.randn(size[1], RANK)) for name, size in sizes.items()}
    write_adapter(folder, AdapterFiles(LoraConfig(rank=RANK, alpha=0.01), matrices), "x")


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is Linux' to tell")
def test_a_merged_model_takes_less_memory_than_its_largest_file(tmp_path: Path) -> None:
    """Counted by the system, the pages of files that are looked at included; one layer stands for all."""
    base, adapter, to = (tmp_path / name for name in ("base", "adapter", "to"))
    for folder in (base, adapter, to):
        folder.mkdir()
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    sizes = dict.fromkeys(attention, (HIDDEN, HIDDEN))
    sizes |= {"mlp.gate_proj": (HIDDEN, INNER), "mlp.up_proj": (HIDDEN, INNER), "mlp.down_proj": (INNER, HIDDEN)}
    modules = {f"model.layers.0.{name}": size for name, size in sizes.items()}
    rows = {num_in: torch.randn(1, num_in).bfloat16() for num_in in (HIDDEN, INNER)}
    weights = {f"{name}.weight": rows[size[0]].expand(size[1], -1).clone() for name, size in modules.items()}
    save_file(weights | {"model.embed_tokens.weight": torch.zeros(8, HIDDEN).bfloat16()}, base / "model.safetensors")
    del weights
    (base / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1,
                "num_attention_heads": 32, "vocab_size": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
                "tie_word_embeddings": True,
            }
        )
    )  # fmt: skip
    random_adapter(modules, adapter)
    peak = peak_of(WRITE, base, adapter, to, SHARD_BYTES)
    shards = [path.stat().st_size for path in to.glob("*.safetensors")]
    assert len(shards) > 2
    assert peak < 1.3 * max(shards), f"{peak:,} bytes for files of {max(shards):,}"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is Linux' to tell")
def test_a_merged_export_with_its_proof_takes_less_memory_than_twice_the_weights(
    base_model_dir: Path, tmp_path: Path
) -> None:
    """Of the default base, with rows as long as a proof reads them: all that the process takes beside its libraries,
    while transformers answers, too."""
    config, adapter, to = read_config(base_model_dir), tmp_path / "adapter", tmp_path / "to"
    adapter.mkdir()
    to.mkdir()
    sizes = module_sizes(config)
    layers = range(config.num_layers)
    random_adapter({f"model.layers.{n}.{name}": size for n in layers for name, size in sizes.items()}, adapter)
    rows = tmp_path / "rows.jsonl"
    said = [
        {"role": role, "content": " ".join(map(str, range(count)))}
        for role, count in (("user", 150), ("assistant", 90))
    ]
    rows.write_text("\n".join([json.dumps({"messages": said})] * 4))
    spec = ExportSpec(
        "ft:x", "merged", "pypi:x", "smollm2", base_model_dir, adapter, 8192, completes=False, rows=rows,
        method="supervised",
    )  # fmt: skip
    save_spec(spec, tmp_path / "spec.json")
    peak_of(EXPORT, tmp_path / "spec.json", to)  # the first one on a machine compiles loops, for which it takes more
    peak = peak_of(EXPORT, tmp_path / "spec.json", to)
    weights = sum(path.stat().st_size for path in to.glob("*.safetensors"))
    assert peak < 2 * weights, f"{peak:,} bytes for weights of {weights:,}"
