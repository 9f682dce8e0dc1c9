"""Bases of the owner's own: looked into, tried, written into the catalog, and removed from it."""
