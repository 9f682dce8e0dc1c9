"""How many compiled matrix products oneDNN keeps on a CPU.

It compiles one for every shape that it meets, and by default keeps a thousand: half a megabyte each, a gigabyte and
more after as many batches or prompts of different lengths.
"""

import os

# A second cache, of descriptions, lies before the first. It needs as many as a layer has products of one length.
_DESCRIPTIONS = 8


def keep_at_most(products: int) -> None:
    """For this process. Only before its first product, for the settings are read there; what is set already stays."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(products))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(_DESCRIPTIONS))
