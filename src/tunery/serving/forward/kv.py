"""Keys and values of all sequences, in blocks."""

import torch

from tunery.serving.forward.config import ModelConfig


class KeyValueCache:
    """One tensor a layer, [blocks · block_size, 2 · K · D]: a row holds a token's keys, then its values.

    Memory is reserved, not touched: a block costs nothing until it is first used. It starts as zeros because what a
    mask hides is still multiplied, by zero, and must be finite for that.
    """

    def __init__(self, config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype) -> None:
        self.block_size = block_size
        self._heads = config.num_kv_heads
        self._rows = [
            torch.zeros(num_blocks * block_size, config.kv_width, dtype=dtype) for _ in range(config.num_layers)
        ]
        self._blocks = [rows.view(num_blocks, block_size * config.kv_width) for rows in self._rows]

    def write(self, layer: int, slots: torch.Tensor, keys_values: torch.Tensor) -> None:
        """keys_values [N, 2 · K · D] into the rows `slots` [N]."""
        self._rows[layer].index_copy_(0, slots, keys_values)

    def wipe(self, blocks: list[int]) -> None:
        """Make blocks finite again after a pass that went astray."""
        for layer in self._blocks:
            layer[blocks] = 0

    def read(self, layer: int, tables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [B, K, T, D] of sequences whose blocks are `tables` [B, T / block_size]."""
        gathered = self._blocks[layer].index_select(0, tables.view(-1))
        both = gathered.view(tables.shape[0], tables.shape[1] * self.block_size, 2, self._heads, -1)
        return both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2)


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    return config.num_layers * block_size * config.kv_width * dtype.itemsize
