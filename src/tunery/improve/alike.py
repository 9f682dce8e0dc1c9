"""What the rows that read alike say of a row's label. No job is needed for it.

Each question becomes a vector, and the labels are fitted to the vectors by ridge regression. What the fit would say of
a row without that row follows from the fit with all of them, in closed form, so every row is judged by all others. How
far that is to be trusted is measured on the same rows: vectors that tell the labels from each other badly say little.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from openai import BadRequestError, InternalServerError, NotFoundError, PermissionDeniedError

from tunery.domain.answers import normalise
from tunery.improve.jobs import Server

if TYPE_CHECKING:
    from openai import OpenAI

EMBEDDER = "text-embedding-3-small"
AT_ONCE = 64  # texts in a request
MOST_CHARACTERS = 4000  # of a text: what it asks stands at its beginning or nowhere
RIDGE = 1.0  # of vectors of length 1
SHARPNESS = np.linspace(0, 30, 61)  # 0: nothing is known


def odds(server: Server, questions: Sequence[str], labels: Sequence[str]) -> np.ndarray | None:
    """By how much each row's own label is likelier than the best of the others, as a difference of logarithms [rows].
    None where the server has no embedding model, cannot fetch it or refuses to ask it."""
    try:
        vectors = _vectors(server.client, questions)
    except (NotFoundError, InternalServerError, BadRequestError, PermissionDeniedError):
        return None
    _, numbers = np.unique([normalise(label) for label in labels], return_inverse=True)
    return judged(vectors, numbers)


def judged(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As `odds`, of vectors [rows, dimensions] of length 1 and the labels' numbers [rows], two or more."""
    own = np.eye(labels.max() + 1)[labels]
    solved = np.linalg.solve(vectors.T @ vectors + RIDGE * np.eye(vectors.shape[1]), vectors.T)
    weight_of_itself = np.einsum("rd,dr->r", vectors, solved)[:, None]
    found = (vectors @ (solved @ own) - weight_of_itself * own) / (1 - weight_of_itself)
    others = np.where(own > 0, -np.inf, found).max(1)
    return _sharpness(found, labels) * (found[np.arange(len(labels)), labels] - others)


def _sharpness(found: np.ndarray, labels: np.ndarray) -> float:
    """With which what was found for each label [rows, labels], as logarithms, makes the rows' own likeliest."""

    def loss(sharpness: float) -> float:
        scaled = sharpness * found
        return float((np.logaddexp.reduce(scaled, 1) - scaled[np.arange(len(labels)), labels]).sum())

    return min(SHARPNESS.tolist(), key=loss)


def _vectors(client: "OpenAI", texts: Sequence[str]) -> np.ndarray:
    """[texts, dimensions], each of length 1."""
    asked = [text[:MOST_CHARACTERS] or " " for text in texts]
    batches = [asked[start : start + AT_ONCE] for start in range(0, len(asked), AT_ONCE)]
    given = [
        np.array([item.embedding for item in client.embeddings.create(model=EMBEDDER, input=batch).data])
        for batch in batches
    ]
    vectors = np.concatenate(given)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
