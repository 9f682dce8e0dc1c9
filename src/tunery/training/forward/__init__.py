"""The model's arithmetic in training: packed rows in, hidden states and gradients out. Knows nothing of jobs.

Dimensions: N packed tokens, M of them that predict something, E hidden size, I inner size, H query heads, K key/value
heads, D head dim, R rank, V vocabulary.
"""
