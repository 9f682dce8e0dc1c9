"""How much may be computed at once, and what running out of memory looks like."""

from pathlib import Path

import psutil
import torch

from tunery.models.config import Sizes

# Beyond this a larger micro-batch is no faster on a CPU, it only needs more memory.
MAX_CPU_TOKENS = 4096
MAX_CUDA_TOKENS = 32768
MIN_TOKENS = 256
SHARE = 0.35  # of what is free: the rest is for the vocabulary head, the optimizer and everybody else


def micro_batch_tokens(config: Sizes, device: str) -> int:
    """Tokens of a micro-batch whose kept activations fit into the memory that is free now."""
    most = MAX_CUDA_TOKENS if device.startswith("cuda") else MAX_CPU_TOKENS
    fitting = int(SHARE * free_bytes(device) / bytes_per_token(config))
    return max(MIN_TOKENS, min(most, fitting))


def bytes_per_token(config: Sizes) -> int:
    """Activations kept for the backward, bf16: about ten of the hidden size and four of the inner size a layer.

    That is what transformers' layers keep; the trainer's own decoder keeps half, and needs some to compute in.
    """
    return 2 * config.num_layers * (10 * config.hidden_size + 4 * config.intermediate_size)


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
