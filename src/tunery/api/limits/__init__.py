"""What a project or a key may use: rates, budget, storage."""
