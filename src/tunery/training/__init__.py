"""Trains LoRA adapters. Knows files, models and numbers; knows nothing of HTTP, SQL or users."""
