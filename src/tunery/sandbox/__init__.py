"""Strangers' Python, where it reaches nothing: no network, no file but an empty folder, no environment, bounded time,
memory, processes and output."""
