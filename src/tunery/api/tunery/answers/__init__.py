"""Stored completions and responses as one list, and the training file that is made of them."""
