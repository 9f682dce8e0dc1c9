"""Bases: which there are, how they stand, and the owner's way to add and remove them."""
