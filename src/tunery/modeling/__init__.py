"""The model code that training and serving share: catalog, sources, loading, attention, LoRA, adapter files."""
