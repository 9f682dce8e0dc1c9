"""The servers that answer: which one has a model's weights, and how it is asked."""
