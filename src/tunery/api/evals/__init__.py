"""Evals: rows, a model's answers to them, and the criteria that grade these."""
