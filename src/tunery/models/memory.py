"""How much memory training takes, for whoever sets its limits and whoever foretells them. Needs no torch."""

from tunery.models.config import Sizes

MICRO_BATCH_TOKENS = 4096
"""Computed at once on a CPU, unless one example is longer: a larger micro-batch is no faster there."""


def activation_bytes(sizes: Sizes) -> int:
    """Kept for the backward for each token, bf16: about ten of the hidden size and four of the inner size a layer.

    That is what transformers' layers keep; the trainer's own decoder keeps half, and needs some to compute in.
    """
    return 2 * sizes.num_layers * (10 * sizes.hidden_size + 4 * sizes.intermediate_size)
