"""The renderer of the real base model, and builders of rows and files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunery.chat.render import Renderer


@pytest.fixture(scope="session")
def renderer(base_model_dir: Path) -> Renderer:
    return Renderer.from_dir(base_model_dir)


def chat_row(question: str = "How many legs has a cat?", answer: str = "Four.", **more: Any) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return {"messages": messages, **more}


def pair_row(question: str = "Say hello.", better: str = "Hello!", worse: str = "What?") -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": better}],
        "non_preferred_output": [{"role": "assistant", "content": worse}],
    }


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """write_rows(rows, name="train.jsonl") → path. A row is an object, or a text or bytes that stand as they are."""

    def write(rows: list[Any], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(_line(row) + b"\n" for row in rows))
        return path

    return write


def _line(row: Any) -> bytes:
    if isinstance(row, bytes):
        return row
    return row.encode() if isinstance(row, str) else json.dumps(row, ensure_ascii=False).encode()
