"""Merging needs the largest tensor and not the model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tunery.models.adapter_config import LoraConfig
from tunery.models.adapter_files import AdapterFiles, Matrices, write_adapter

HIDDEN, INNER, RANK = 4096, 11008, 16  # of a model of 7 billion weights
SHARD_BYTES = 200_000_000
MEASURED = """
import pathlib, re, sys
from tunery.export import write
from tunery.models.config import read_config

def memory(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024

base, adapter, to = map(pathlib.Path, sys.argv[1:4])
found = write.read_fitting(adapter, read_config(base))
before = memory("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
write.write_merged(base, found, to, lambda *_: None, shard_bytes=int(sys.argv[4]))
print(memory("VmHWM") - before)
"""


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
    matrices = {
        name: Matrices(torch.randn(RANK, size[0]), torch.randn(size[1], RANK)) for name, size in modules.items()
    }
    write_adapter(adapter, AdapterFiles(LoraConfig(rank=RANK), matrices), "x")
    command = [sys.executable, "-c", MEASURED, *map(str, (base, adapter, to)), str(SHARD_BYTES)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    shards = [path.stat().st_size for path in to.glob("*.safetensors")]
    assert len(shards) > 2
    assert int(done.stdout) < 1.3 * max(shards), f"{int(done.stdout):,} bytes for files of {max(shards):,}"
