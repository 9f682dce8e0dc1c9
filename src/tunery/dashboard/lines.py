"""The lines of a dataset as the pages need them."""

import json
from typing import Any

from openai.types import FileObject

MAX_HELD_BYTES = 64 * 1024 * 1024  # a larger file is not read into memory whole: it is not offered where that happens


def small_enough(files: list[FileObject]) -> list[FileObject]:
    return [file for file in files if file.bytes <= MAX_HELD_BYTES]


def chat_examples(text: str) -> list[tuple[int, list[dict[str, Any]]]]:
    """Line numbers (from 1) and messages of the chat examples that end with a text answer; others are passed over."""
    found: list[tuple[int, list[dict[str, Any]]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        messages = row.get("messages") if isinstance(row, dict) else None
        if isinstance(messages, list) and len(messages) > 1 and _is_text_answer(messages[-1]):
            found.append((number, [_without_weight(message) for message in messages]))
    return found


def few_shots(text: str, wanted: int) -> list[dict[str, Any]]:
    """A user's and an assistant's turn from each of the first `wanted` chat lines that have just these.

    Their system messages are left to whoever asks.
    """
    shots: list[dict[str, Any]] = []
    for line in text.splitlines():
        if len(shots) >= 2 * wanted:
            break
        try:
            row = json.loads(line)
        except ValueError:
            continue
        messages = row.get("messages", []) if isinstance(row, dict) else []
        turns = [
            {"role": message["role"], "content": message["content"]}
            for message in messages
            if message.get("role") in ("user", "assistant") and isinstance(message.get("content"), str)
        ]
        if [turn["role"] for turn in turns] == ["user", "assistant"]:
            shots += turns
    return shots


def _is_text_answer(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant" and isinstance(message.get("content"), str)


def _without_weight(message: dict[str, Any]) -> dict[str, Any]:
    """`weight` belongs to training files; a request may not have it."""
    return {name: value for name, value in message.items() if name != "weight"}
