"""A vLLM in the engine's place, behind the engine's own HTTP face."""
