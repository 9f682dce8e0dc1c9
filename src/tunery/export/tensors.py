"""A base's weights as they are written into an export: tensor by tensor, and where an adapter is added a few rows at a
time, so that the largest tensor and not the model is what must fit into memory."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from tunery.domain.errors import InvalidRequest
from tunery.models.adapter_files import AdapterFiles

CHUNK_NUMBERS = 2 * 1024 * 1024  # that are added to at a time: 8 MB in fp32


@dataclass(frozen=True)
class StoredTensor:
    """One of a model dir's files. Opened anew for each: a file that stays open keeps all that was read in memory."""

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it
    num_bytes: int

    def rows(self, adapter: AdapterFiles | None, dtype: torch.dtype | None = None) -> Iterator[torch.Tensor]:
        """With what the adapter adds to it, in pieces of rows. `dtype` None: in its own type. [rows, in], or of any
        shape."""
        module = self.name.removesuffix(".weight")
        matrices = adapter.modules.get(module) if adapter else None
        with safe_open(self.path, framework="pt") as file:
            tensor = file.get_tensor(self.name)
            dtype = dtype or tensor.dtype
            if adapter is None or matrices is None:
                yield tensor.to(dtype)
                return
            b, a = matrices.b.float() * adapter.config.scaling_of(module), matrices.a.float()
            step = max(1, CHUNK_NUMBERS // self.shape[1])
            for begin in range(0, self.shape[0], step):
                part = slice(begin, begin + step)
                yield torch.addmm(tensor[part].float(), b[part], a).to(dtype)


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
