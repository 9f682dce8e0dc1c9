"""Whether the weights of a model dir are all there, by the heads of their files alone.

Apart because every kind of source is held to it.
"""

import json
import struct
from pathlib import Path
from typing import Any

from tunery.models.sources.base import SourceError
from tunery.texts import say

MAX_HEADER = 100_000_000  # bytes, as the safetensors library has it


def check_whole(model_dir: Path) -> None:
    """Raises SourceError for a part that the index names and that is missing, and for a file that ends too early."""
    index = model_dir / "model.safetensors.index.json"
    if index.exists():
        parts = sorted(set(_read(index).get("weight_map", {}).values()))
        missing = [name for name in parts if not (model_dir / name).exists()]
        if missing:
            raise SourceError(say("source.part_missing", file=missing[0], missing=len(missing), parts=len(parts)))
    for path in sorted(model_dir.glob("*.safetensors")):
        tensors_of(path)


def tensors_of(path: Path) -> dict[str, list[int]]:
    """Shape of each tensor by its name. Raises SourceError for a file that is damaged or ends too early."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length) if length <= MAX_HEADER else b"")
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        shapes = {name: list(entry["shape"]) for name, entry in tensors.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (struct.error, ValueError, AttributeError, KeyError, TypeError, IndexError) as exc:
        raise SourceError(say("source.damaged", file=path.name)) from exc
    found = path.stat().st_size
    if found != end:
        raise SourceError(say("source.cut_off", file=path.name, found=found, expected=end))
    return shapes


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as exc:
        raise SourceError(say("source.damaged", file=path.name)) from exc
