"""How much memory training and serving take, for whoever sets their limits and whoever foretells them. No torch."""

from pathlib import Path

import psutil

from tunery.models.config import Sizes

MICRO_BATCH_TOKENS = 4096
"""Computed at once on a CPU, unless one example is longer: a larger micro-batch is no faster there."""

# What a process holds besides the model: Python, torch, its threads' buffers.
_RUNTIME_BYTES = 700 * 1024**2
# Weights, gradient and Adam's two moments of an adapter, 4 bytes each.
_ADAPTER_BYTES = 16
# Logits exist for a few positions at a time; their memory is counted as this many rows of the vocabulary, fp32.
_LOGIT_ROWS = 512

CACHE_BYTES = 1 << 30
"""What an engine takes for keys and values unless it is told otherwise."""


def activation_bytes(sizes: Sizes) -> int:
    """Kept for the backward for each token, bf16: about ten of the hidden size and four of the inner size a layer.

    That is what transformers' layers keep; the trainer's own decoder keeps half, and needs some to compute in.
    """
    return 2 * sizes.num_layers * (10 * sizes.hidden_size + 4 * sizes.intermediate_size)


def training_bytes(sizes: Sizes, *, lora_rank: int, tokens: int = MICRO_BATCH_TOKENS) -> int:
    """Of a training process at its largest step, roughly: weights in bf16, adapter, activations of `tokens` at once,
    logits."""
    activations = tokens * activation_bytes(sizes)
    adapter = _ADAPTER_BYTES * sizes.adapter_parameters(lora_rank)
    logits = 4 * _LOGIT_ROWS * sizes.vocab_size
    return _RUNTIME_BYTES + 2 * sizes.num_parameters + adapter + activations + logits


def serving_bytes(sizes: Sizes, *, cache_bytes: int = CACHE_BYTES) -> int:
    """Of an engine, roughly, when its cache is full: the weights as they are multiplied, in bytes or in bf16, beside
    what of the file is still in use."""
    return _RUNTIME_BYTES + 2 * sizes.num_parameters + cache_bytes


def machine_bytes() -> int:
    """The machine's memory, or the container's where that is less."""
    limit = Path("/sys/fs/cgroup/memory.max")
    total = psutil.virtual_memory().total
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return total
