"""Models to other programs, and adapters from them."""
