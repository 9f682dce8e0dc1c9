"""The model's arithmetic, written by hand for the batch shapes of serving. Knows tensors; nothing of requests.

transformers' own forward spends more time between its operations than in them when it decodes a token: one stream
ran at 24 tokens/s there and needs a third of the time here. Tests hold every path equal to transformers and PEFT.
What no description covers is computed over transformers' modules all the same (transformers_forward.py).

Dimensions in comments: N tokens of the batch, B sequences, T positions of a sequence, H query heads, K key/value heads,
D head dim, R rank, V vocabulary.
"""
