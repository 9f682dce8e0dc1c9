"""The engine's HTTP face: vLLM's dialect."""
