"""Base models and adapters as files: the catalog, where weights come from, their configuration and tensors."""
