"""Writes the files of an export. What transformers, PEFT and vLLM read is written here.

Weights pass tensor by tensor, and where an adapter is added to them a few rows at a time, so that the largest tensor
and not the model is what must fit into memory.
"""

import hashlib
import json
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from tunery.chat.render import Renderer
from tunery.domain.errors import InvalidRequest
from tunery.export.proof import prove
from tunery.export.spec import ExportFailed, ExportSpec
from tunery.models.adapter_config import CONFIG_FILE, WEIGHTS_FILE
from tunery.models.adapter_files import AdapterFiles, read_adapter
from tunery.models.config import ModelConfig, module_sizes, read_config
from tunery.models.sources.base import Progress

REPORT = "export.json"
SHARD_BYTES = 4_000_000_000
CHUNK_NUMBERS = 8 * 1024 * 1024  # that are added to at a time: 32 MB in fp32
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def export(spec: ExportSpec, target: Path, progress: Progress) -> dict[str, Any]:
    """Write and prove it; the report, which also lies beside the weights as `export.json`. Raises ExportFailed when the
    export disagrees with the model, InvalidRequest for a model that is not computed here, UnsupportedAdapter."""
    config = read_config(spec.model_dir)
    adapter = read_fitting(spec.adapter_dir, config) if spec.adapter_dir else None
    base = {"name": spec.base, "source": spec.source, "sha256": hashes_of(spec.model_dir)}
    if spec.format == "adapter":
        _write_adapter(spec, target)
    else:
        write_merged(spec.model_dir, adapter, target, progress)
    write_settings(spec, target)
    progress("proving", 0, None)
    proof = prove(spec, target)
    report = {"model": spec.name, "format": spec.format, "base": base, "proof": proof.to_dict()}
    if not proof.agrees:
        raise ExportFailed(f"The export was thrown away: it answers otherwise than {spec.name}. {proof.summary}")
    (target / REPORT).write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    (target / "README.md").write_text(_readme(spec, base, proof.summary), "utf-8")
    return report


def read_fitting(folder: Path, config: ModelConfig) -> AdapterFiles:
    """An adapter that is one of this base. Raises UnsupportedAdapter."""
    adapter = read_adapter(folder)
    adapter.check_fits(
        {
            f"model.layers.{layer}.{name}": size
            for layer in range(config.num_layers)
            for name, size in module_sizes(config).items()
        }
    )
    return adapter


def hashes_of(model_dir: Path) -> dict[str, str]:
    """SHA-256 of each file of weights."""
    found: dict[str, str] = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _write_adapter(spec: ExportSpec, target: Path) -> None:
    if spec.adapter_dir is None:
        raise InvalidRequest(f"{spec.name} is a base model: it has no adapter. Export it as merged.", param="format")
    shutil.copyfile(spec.adapter_dir / WEIGHTS_FILE, target / WEIGHTS_FILE)
    settings = json.loads((spec.adapter_dir / CONFIG_FILE).read_text("utf-8"))
    kind, _, place = spec.source.partition(":")
    if kind == "hf":  # then PEFT and vLLM find the base themselves
        name, _, revision = place.partition("@")
        settings |= {"base_model_name_or_path": name, "revision": revision or None}
    _write_json(target / CONFIG_FILE, settings)


def write_settings(spec: ExportSpec, target: Path) -> None:
    """Tokenizer and template as they lie beside the base, and all the tokens that end an answer here."""
    for name in _TOKENIZER:
        if (spec.model_dir / name).exists():
            shutil.copyfile(spec.model_dir / name, target / name)
    path = spec.model_dir / "generation_config.json"
    settings = json.loads(path.read_text("utf-8")) if path.exists() else {}
    ends = sorted(Renderer.from_dir(spec.model_dir).eos_ids)
    if ends:
        settings["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    _write_json(target / "generation_config.json", settings)


# ---- weights


@dataclass(frozen=True)
class StoredTensor:
    """One of a model dir's files. Opened anew for each: a file that stays open keeps all that was read in memory."""

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it
    num_bytes: int

    def rows(self, adapter: AdapterFiles | None) -> Iterator[torch.Tensor]:
        """The tensor in its type, with what the adapter adds to it, in pieces of rows. [rows, in], or of any shape."""
        module = self.name.removesuffix(".weight")
        matrices = adapter.modules.get(module) if adapter else None
        with safe_open(self.path, framework="pt") as file:
            tensor = file.get_tensor(self.name)
            if adapter is None or matrices is None:
                yield tensor
                return
            b, a = matrices.b.float() * adapter.config.scaling_of(module), matrices.a.float()
            step = max(1, CHUNK_NUMBERS // self.shape[1])
            for begin in range(0, self.shape[0], step):
                part = slice(begin, begin + step)
                yield torch.addmm(tensor[part].float(), b[part], a).to(tensor.dtype)


def stored_tensors(model_dir: Path) -> list[StoredTensor]:
    """In the order of the files, by name. Raises InvalidRequest where there are none."""
    found: list[StoredTensor] = []
    for path in sorted(model_dir.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, entry in sorted(header.items()):
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found.append(StoredTensor(name, path, tuple(entry["shape"]), entry["dtype"], end - begin))
    if not found:
        raise InvalidRequest(f"{str(model_dir)!r} holds no .safetensors file.")
    return found


def write_merged(
    model_dir: Path,
    adapter: AdapterFiles | None,
    target: Path,
    progress: Progress,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """config.json and the weights with the adapter in them, in files of at most `shard_bytes` or one tensor."""
    shutil.copyfile(model_dir / "config.json", target / "config.json")
    tensors = stored_tensors(model_dir)
    total, done = sum(each.num_bytes for each in tensors), 0
    shards: list[list[StoredTensor]] = [[]]
    for each in tensors:
        if shards[-1] and sum(other.num_bytes for other in shards[-1]) + each.num_bytes > shard_bytes:
            shards.append([])
        shards[-1].append(each)
    places: dict[str, str] = {}
    for index, shard in enumerate(shards, start=1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{index:05}-of-{len(shards):05}.safetensors"
        with (target / name).open("wb") as file:
            _write_header(file, shard)
            for each in shard:
                progress("writing", done, total)
                for piece in each.rows(adapter):
                    piece.contiguous().view(-1).view(torch.uint8).numpy().tofile(file)
                done += each.num_bytes
        places |= {each.name: name for each in shard}
    if len(shards) > 1:
        _write_json(target / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})


def _write_header(file: BinaryIO, tensors: list[StoredTensor]) -> None:
    """By hand, since the library wants all tensors of a file at once."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for each in tensors:
        end = offset + each.num_bytes
        header[each.name] = {"dtype": each.dtype, "shape": each.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")


# ---- for people


_LOADING = {
    "adapter": """It changes the base model named below and needs that very one. With the base in the folder `base`:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), ".")
```

`vllm serve base --enable-lora --lora-modules tuned=.` serves it, and `tunery models import` takes it back.""",
    "merged": """The adapter is part of the weights: no other files are needed.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
```

`vllm serve .` serves it.""",
}


def _readme(spec: ExportSpec, base: dict[str, Any], proof: str) -> str:
    hashes = "\n".join(f"- `{name}`: {digest}" for name, digest in base["sha256"].items())
    library = "peft" if spec.format == "adapter" else "transformers"
    return f"""---
library_name: {library}
pipeline_tag: text-generation
---

# {spec.name}

A fine-tuned model, exported by Tunery as {"a PEFT adapter" if library == "peft" else "whole weights"}.
{_LOADING[spec.format]}

Prompts must be rendered by the chat template that lies here (`apply_chat_template` does), as they were in training.

## Base model

{base["name"]}, from `{base["source"]}`. SHA-256 of its weights:

{hashes}

## Proof

{proof} `{REPORT}` has the numbers.
"""
