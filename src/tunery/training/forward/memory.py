"""The memory that fused layers work in, held for the life of a model.

Taken from the heap, what a layer keeps for its backward and what it needs for a moment would leave holes to each other
that neither fits again as batches change their size: a tenth of the trainer's memory.
"""

from math import prod

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 1024**2  # the system gives its pages as they are written


class Scratch:
    """For what lives no longer than one step of a layer; all layers of a model use it in turn."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialized tensor; valid until `name` is taken again. Of any shape."""
        flat, count = self._flat.get(name), prod(shape)
        if flat is None or flat.numel() < count or flat.dtype is not dtype:
            del flat
            self._flat.pop(name, None)  # before the new one is there: not both at once
            size = count + count // 2  # batches differ a little
            flat = self._flat[name] = torch.empty(size, dtype=dtype, device=self._device)
        return flat[:count].view(shape)

    def release(self) -> None:
        """Give all back."""
        self._flat.clear()


class SavedActivations:
    """For what the layers of one forward pass keep for its backward. The next pass writes over it."""

    def __init__(self, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._chunk_bytes = chunk_bytes
        self._chunks: list[Tensor] = []
        self._chunk = self._used = 0
        self.passes = 0

    @property
    def num_bytes(self) -> int:
        return sum(chunk.numel() for chunk in self._chunks)

    def begin(self) -> None:
        """A new forward pass: what was taken before is no longer valid, which the change of `passes` tells."""
        self.rewind()
        self.passes += 1

    def rewind(self) -> None:
        """Take from the start again, in the same pass."""
        self._chunk = self._used = 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialized tensor, of which autograd does not know that it shares its memory. Of any shape."""
        size = prod(shape) * dtype.itemsize
        while self._chunk < len(self._chunks) and self._used + size > self._chunks[self._chunk].numel():
            if self._used:
                self._chunk, self._used = self._chunk + 1, 0
            else:  # too small as a whole: a larger one takes its place, or old ones would pile up
                self._chunks.pop(self._chunk)
        if self._chunk == len(self._chunks):
            self._chunks.append(torch.empty(max(size, self._chunk_bytes), dtype=torch.uint8))
        part = self._chunks[self._chunk].data[self._used : self._used + size]
        self._used += -(-size // 64) * 64  # a cache line, so that no two threads write to the same
        return part.view(dtype).view(shape)

    def release(self) -> None:
        """Give all back; what was taken is no longer valid."""
        self._chunks.clear()
        self.begin()
