"""Append-only schema revisions, named 0001_…; shipped in the package and run at start."""
