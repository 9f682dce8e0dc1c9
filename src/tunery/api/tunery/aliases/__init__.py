"""A project's own names for models."""
