"""The engine's HTTP face: OpenAI's dialect, with vLLM's endpoints for adapters."""
