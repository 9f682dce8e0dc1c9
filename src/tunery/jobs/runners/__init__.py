"""Ways to run a trainer. `process`: a child of this worker."""
