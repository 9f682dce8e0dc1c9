"""Keys and values of all sequences, in blocks."""

import mmap
from math import prod

import torch

from tunery.serving.forward.config import ModelConfig


class KeyValueCache:
    """One tensor a layer, [2 · K, blocks, block_size · D]: the heads of the keys, then those of the values.

    Heads first, so that gathered blocks lie as the matrices that attention multiplies. Memory is reserved, not
    touched: a block costs nothing until it is first used. It starts as zeros because what a mask hides is still
    multiplied, by zero, and must be finite for that. Not from malloc, which may take huge pages: a block lies in many
    places, and each would take two megabytes.
    """

    def __init__(self, config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype) -> None:
        self.block_size = block_size
        self._heads = config.num_kv_heads
        self._head_dim = config.head_dim
        self._blocks = [
            _untouched_zeros((2 * config.num_kv_heads, num_blocks, block_size * config.head_dim), dtype)
            for _ in range(config.num_layers)
        ]
        self.rows = [blocks.view(2 * config.num_kv_heads, -1, config.head_dim) for blocks in self._blocks]

    def write(self, layer: int, slots: torch.Tensor, keys_values: torch.Tensor) -> None:
        """keys_values [N, 2 · K · D] to the places `slots` [N]."""
        heads = keys_values.view(keys_values.shape[0], -1, self._head_dim)
        self.rows[layer].index_copy_(1, slots, heads.transpose(0, 1))

    def wipe(self, blocks: list[int]) -> None:
        """Make blocks finite again after a pass that went astray."""
        for layer in self._blocks:
            layer[:, blocks] = 0

    def read(self, layer: int, tables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [K, B, T, D] of sequences whose blocks are `tables` [B, T / block_size]."""
        gathered = self._blocks[layer].index_select(1, tables.view(-1))
        heads = gathered.view(2 * self._heads, tables.shape[0], -1, self._head_dim)
        return heads[: self._heads], heads[self._heads :]


def _untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    memory = mmap.mmap(-1, prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    return config.num_layers * block_size * config.kv_width * dtype.itemsize
