"""OpenAI's own test suite of its Python SDK, run against this server."""
