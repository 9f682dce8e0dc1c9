"""Tunery: a self-hosted, drop-in replacement for OpenAI's fine-tuning platform."""

__version__ = "0.1.0"
