"""Keys and values of all sequences, in blocks."""

from typing import Protocol

import numpy as np
import torch


class KeyValueShape(Protocol):
    """Of what a token keeps."""

    @property
    def num_layers(self) -> int: ...

    @property
    def num_kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...


class KeyValueCache:
    """One tensor, [blocks, layers, 2 · K, block_size, D]: in a layer's part the heads of the keys, then of the values.

    A block lies in one place, so that few pages of memory hold it. Memory is reserved, not touched: a block costs
    nothing until it is first used. It starts as zeros because what a mask hides is still multiplied, by zero, and must
    be finite for that.
    """

    def __init__(self, shape: KeyValueShape, num_blocks: int, block_size: int, dtype: torch.dtype) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        sizes = (num_blocks, shape.num_layers, 2 * shape.num_kv_heads, block_size, shape.head_dim)
        # numpy leaves zeros to the system; torch writes them.
        zeros = np.zeros(sizes, np.uint16 if dtype is torch.bfloat16 else np.float32)
        self.blocks = torch.from_numpy(zeros).view(dtype)

    def write(self, layer: int, blocks: torch.Tensor, offsets: torch.Tensor, keys_values: torch.Tensor) -> None:
        """keys_values [N, 2 · K · D], each to a place in a block; blocks, offsets [N]."""
        own = self.blocks[:, layer]
        own[blocks, :, offsets] = keys_values.view(keys_values.shape[0], *own.shape[1::2])

    def wipe(self, blocks: list[int]) -> None:
        """Make blocks finite again after a pass that went astray."""
        self.blocks[blocks] = 0

    def read(self, layer: int, tables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [B, K, T, D] of sequences whose blocks are `tables` [B, T / block_size]."""
        gathered = self.blocks[tables, layer].transpose(1, 2)  # [B, 2 · K, T / block_size, block_size, D]
        keys, values = gathered.flatten(2, 3).chunk(2, dim=1)
        return keys, values


def blocks_for(
    shape: KeyValueShape, block_size: int, dtype: torch.dtype, *, num_bytes: int, context_length: int
) -> int:
    """How many whole blocks the memory buys, never fewer than one full context needs."""
    token_bytes = shape.num_layers * 2 * shape.num_kv_heads * shape.head_dim * dtype.itemsize
    return max(num_bytes // (block_size * token_bytes), -(-context_length // block_size))
