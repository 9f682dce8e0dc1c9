"""Conversations: items that responses begin with and add to."""
