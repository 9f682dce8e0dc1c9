"""The tensors of a model dir's safetensors files, by name."""

from pathlib import Path

import torch
from safetensors import safe_open

from tunery.domain.errors import InvalidRequest


class WeightFiles:
    """Raises InvalidRequest where there are none."""

    def __init__(self, model_dir: Path, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._files = [safe_open(path, framework="pt") for path in sorted(model_dir.glob("*.safetensors"))]
        self._file_of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 - no mapping
        if not self._file_of:
            raise InvalidRequest(f"{str(model_dir)!r} holds no .safetensors file.")

    def find(self, name: str) -> torch.Tensor | None:
        """A view of the file where its type is the wanted one."""
        file = self._file_of.get(name)
        return None if file is None else file.get_tensor(name).to(self._dtype)

    def get(self, name: str) -> torch.Tensor:
        """Raises InvalidRequest."""
        tensor = self.find(name)
        if tensor is None:
            raise InvalidRequest(f"The weights have no tensor {name!r}.")
        return tensor
