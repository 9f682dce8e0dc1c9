"""A fine-tuning job from its creation to its end: the verbs of the API, the worker, and how a trainer is run."""
