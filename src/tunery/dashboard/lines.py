"""The rows of a dataset as questions with their answers, and as turns before a question."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from tunery.datasets.conversations import Conversation, read_conversations


def chat_examples(text: str, most: int | None = None) -> list[Conversation]:
    """The first rows that a model can be asked and whose text answer it can be compared with."""
    found = (row for row in _conversations(text) if row.messages and row.answer_text is not None)
    return list(islice(found, most))


def few_shots(text: str, wanted: int) -> list[dict[str, Any]]:
    """A user's and an assistant's turn from each of the first `wanted` rows that have just these.

    Their system messages are left to whoever asks.
    """
    shots: list[dict[str, Any]] = []
    for row in _conversations(text):
        if len(shots) >= 2 * wanted:
            break
        turns = [message for message in row.messages if message["role"] not in ("system", "developer")]
        if [turn["role"] for turn in turns] == ["user"] and row.answer_text:
            shots += [turns[0], {"role": "assistant", "content": row.answer_text}]
    return shots


def _conversations(text: str) -> Iterator[Conversation]:
    return (row for row in read_conversations([text.encode("utf-8", "surrogatepass")]) if isinstance(row, Conversation))
