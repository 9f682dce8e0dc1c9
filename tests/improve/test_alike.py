"""Labels against the rows that read alike, from vectors alone; with real ones in tests/e2e/test_tickets.py."""

import numpy as np
import pytest

from tunery.improve.alike import RIDGE, judged

NUM_ROWS, NUM_LABELS, NUM_DIMENSIONS = 120, 4, 24


def rows(scatter: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [rows, dimensions] of length 1 around a centre for each label, and the labels [rows]."""
    generator = np.random.default_rng(3)
    centres = generator.normal(size=(NUM_LABELS, NUM_DIMENSIONS))
    labels = np.arange(NUM_ROWS) % NUM_LABELS
    vectors = centres[labels] + scatter * generator.normal(size=(NUM_ROWS, NUM_DIMENSIONS))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


def test_changed_labels_are_the_least_likely() -> None:
    vectors, labels = rows(0.5)
    changed = [3, 14, 15, 92, 65]
    labels[changed] = (labels[changed] + 1) % NUM_LABELS
    odds = judged(vectors, labels)
    assert set(np.argsort(odds)[: len(changed)]) == set(changed)
    assert (odds[changed] < 0).all() and (np.delete(odds, changed) > 0).all()


def test_a_row_is_judged_by_the_others() -> None:
    """As a fit without it would."""
    vectors, labels = rows(2.0)
    labels[0] = (labels[0] + 1) % NUM_LABELS
    margins = []
    for row, label in enumerate(labels):
        kept = np.arange(NUM_ROWS) != row
        own = np.eye(NUM_LABELS)[labels[kept]]
        inverse = np.linalg.inv(vectors[kept].T @ vectors[kept] + RIDGE * np.eye(NUM_DIMENSIONS))
        found = vectors[row] @ inverse @ vectors[kept].T @ own
        margins.append(found[label] - np.delete(found, label).max())
    odds = judged(vectors, labels)
    sharpness = odds[0] / margins[0]
    assert sharpness > 0 and odds == pytest.approx(sharpness * np.array(margins))


def test_vectors_that_tell_nothing_decide_nothing() -> None:
    vectors = np.random.default_rng(3).normal(size=(NUM_ROWS, NUM_DIMENSIONS))
    odds = judged(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.arange(NUM_ROWS) % NUM_LABELS)
    assert (odds == 0).all()
