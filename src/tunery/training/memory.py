"""How much may be computed at once, and what running out of memory looks like."""

from pathlib import Path

import psutil
import torch

from tunery.models.config import Sizes
from tunery.models.memory import MICRO_BATCH_TOKENS, activation_bytes

MAX_CUDA_TOKENS = 32768
MIN_TOKENS = 256
SHARE = 0.35  # of what is free: the rest is for the vocabulary head, the optimizer and everybody else


def micro_batch_tokens(config: Sizes, device: str, before: int | None = None) -> int:
    """Tokens of a micro-batch whose kept activations fit into the memory that is free now.

    `before`: what the job computed with until now. It stays so, since other micro-batches give other last bits, unless
    it would take more than all that is free.
    """
    fitting = free_bytes(device) / activation_bytes(config)
    if before:
        return min(before, max(MIN_TOKENS, int(fitting)))
    most = MAX_CUDA_TOKENS if device.startswith("cuda") else MICRO_BATCH_TOKENS
    return max(MIN_TOKENS, min(most, int(SHARE * fitting)))


def free_bytes(device: str) -> int:
    """What may still be taken of the device's memory, or of the machine's and the container's."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    in_container = _cgroup_free()
    return free if in_container is None else min(free, in_container)


def _cgroup_free() -> int | None:
    """What a container may still take; None without a limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)


def is_out_of_memory(exc: BaseException) -> bool:
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    return "not enough memory" in str(exc) or "can't allocate memory" in str(exc)
