"""Writes the files of an export. What transformers, PEFT and vLLM read is written here."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tunery.chat.render import Renderer
from tunery.domain.errors import InvalidRequest
from tunery.export import llama_cpp
from tunery.export.lora_gguf import LORA_FILE, write_lora
from tunery.export.proof import prove
from tunery.export.spec import ExportFailed, ExportSpec
from tunery.export.tensors import StoredTensor, stored_tensors
from tunery.models.adapter_config import CONFIG_FILE, WEIGHTS_FILE
from tunery.models.adapter_files import AdapterFiles, read_adapter
from tunery.models.config import ModelConfig, module_sizes, read_config
from tunery.models.sources.base import Progress
from tunery.models.sources.cache import hashes_of

REPORT = "export.json"
SHARD_BYTES = 4_000_000_000
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def export(spec: ExportSpec, target: Path, progress: Progress) -> dict[str, Any]:
    """Write and prove it; the report, which also lies beside the weights as `export.json`. Raises ExportFailed when the
    export disagrees with the model, InvalidRequest for a model that is not computed here, UnsupportedAdapter."""
    config = read_config(spec.model_dir)
    adapter = read_fitting(spec.adapter_dir, config) if spec.adapter_dir else None
    base = {"name": spec.base, "source": spec.source, "sha256": hashes_of(spec.model_dir)}
    if spec.format == "adapter":
        _write_adapter(spec, target)
    elif spec.format == "merged":
        write_merged(spec.model_dir, adapter, target, progress)
    elif spec.lora and adapter is not None:
        write_lora(adapter, config, target / LORA_FILE, spec.name)
    else:
        llama_cpp.write_gguf(spec, adapter, target, progress)
    if spec.format in ("adapter", "merged"):
        write_settings(spec, target)
    progress("proving", 0, None)
    proof = prove(spec, target)
    form: dict[str, Any] = {"format": spec.format}
    if spec.format in ("gguf", "ollama"):
        form |= {"lora": True} if spec.lora else {"type": spec.type}
    report = {"model": spec.name, **form, "base": base, "proof": proof.to_dict()}
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
                    file.write(piece.contiguous().view(-1).view(torch.uint8).numpy().data)
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

`vllm serve base --enable-lora --lora-modules tuned=.` serves it.""",
    "merged": """The adapter is part of the weights: no other files are needed.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
```

`vllm serve .` serves it.""",
    "gguf": """Weights with the adapter in them, tokenizer, template and the tokens that end an answer, in one file:

```sh
llama-server --model model.gguf --jinja
```

LM Studio takes the file as it is.""",
    "lora": """The adapter alone, for the GGUF file of the base model named below:

```sh
llama-server --model base.gguf --lora lora.gguf --jinja
```""",
    "ollama": """Weights with the adapter in them in one file, and beside it how Ollama is to ask it:

```sh
ollama create tuned --file Modelfile
ollama run tuned
```""",
}


_WHAT = {
    "adapter": "a PEFT adapter",
    "merged": "whole weights",
    "gguf": "a GGUF file",
    "lora": "a LoRA as GGUF",
    "ollama": "a GGUF file with a Modelfile",
}


def _readme(spec: ExportSpec, base: dict[str, Any], proof: str) -> str:
    hashes = "\n".join(f"- `{name}`: {digest}" for name, digest in base["sha256"].items())
    form = "lora" if spec.lora else spec.format
    library = {"adapter": "peft", "merged": "transformers"}.get(spec.format, "gguf")
    return f"""---
library_name: {library}
pipeline_tag: text-generation
---

# {spec.name}

A fine-tuned model, exported by Tunery as {_WHAT[form]}.
{_LOADING[form]}

Prompts must be rendered by the chat template that comes with it, as they were in training; the programs above do.

## Base model

{base["name"]}, from `{base["source"]}`. SHA-256 of its weights:

{hashes}

## Proof

{proof} `{REPORT}` has the numbers.
"""
