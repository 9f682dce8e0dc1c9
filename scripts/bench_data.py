"""Training files that `make bench` makes for itself."""

import importlib
import inspect
import json
import random
from collections.abc import Iterator
from pathlib import Path

TURNS = 6  # questions in a conversation: about 200 tokens, half of them trained
# Enough of Python's own library for a thousand rows.
MODULES = """
    os os.path shutil re json math random statistics datetime collections itertools functools textwrap string pathlib
    csv sqlite3 subprocess threading socket asyncio email urllib.parse http.client logging argparse tempfile glob heapq
    bisect calendar decimal fractions hashlib hmac secrets zipfile tarfile gzip inspect ast dis types copy pprint enum
    contextlib traceback warnings unittest
"""


def conversations(source: Path, path: Path) -> Path:
    """The questions of a chat JSONL with one question a row, several to a row."""
    pairs = [json.loads(line)["messages"] for line in source.read_text("utf-8").splitlines()]
    orders = [pairs[shift:] + pairs[:shift] for shift in range(TURNS)]  # the same texts in other company
    groups = [order[start : start + TURNS] for order in orders for start in range(0, len(order), TURNS)]
    return _write(path, [[group[0][0], *(message for pair in group for message in pair[1:])] for group in groups])


def docstrings(path: Path) -> Path:
    """A question about each function and class of Python's library, answered by its own first paragraph.

    About 55 tokens a row, from 35 to several hundred: as unequal as what people write.
    """
    rows = [
        [{"role": "user", "content": f"What does {name} do?"}, {"role": "assistant", "content": text}]
        for name, text in _documented()
    ]
    random.Random(0).shuffle(rows)
    return _write(path, rows)


def _documented() -> Iterator[tuple[str, str]]:
    """Names and first paragraphs, each paragraph once."""
    seen: set[str] = set()
    for module in MODULES.split():
        for name, value in sorted(vars(importlib.import_module(module)).items()):
            text = inspect.getdoc(value) if callable(value) and not name.startswith("_") else None
            paragraph = (text or "").split("\n\n")[0].replace("\n", " ").strip()
            if paragraph and paragraph not in seen:
                seen.add(paragraph)
                yield f"{module}.{name}", paragraph


def _write(path: Path, rows: list[list[dict[str, str]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"messages": row}, ensure_ascii=False) + "\n" for row in rows)
    return path
