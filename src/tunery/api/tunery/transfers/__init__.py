"""Models to other programs, adapters from them."""
