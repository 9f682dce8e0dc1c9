"""Graders: a number for a model's answer, by comparing strings, by similarity, by a judge model, or by a formula."""
