"""Chat completions, and those that a client asked to keep."""
