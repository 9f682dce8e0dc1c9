"""Conversations as text and as token ids: one renderer of checking, training and serving. Needs no torch."""
