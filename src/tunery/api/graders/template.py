"""`{{ item.answer }}` and `{{ sample.output_text }}` in a grader's texts. Paths only: nothing is evaluated."""

import json
import re
from collections.abc import Iterator
from typing import Any

PLACE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
NAMESPACES = ("item", "sample")


class UnknownVariable(ValueError):
    """A template names what neither the item nor the sample has."""


def sample_of(text: str) -> dict[str, Any]:
    """What `sample` holds. `output_json` only when the text is JSON."""
    sample: dict[str, Any] = {"output_text": text}
    try:
        sample["output_json"] = json.loads(text)
    except (ValueError, RecursionError):
        return sample
    return sample


def render(template: str, values: dict[str, Any]) -> str:
    return PLACE.sub(lambda match: as_text(look_up(match.group(1), values)), template)


def variables(template: str) -> Iterator[str]:
    return (match.group(1) for match in PLACE.finditer(template))


def look_up(path: str, values: Any) -> Any:
    found = values
    for match in STEP.finditer(path):
        name, index = match.groups()
        try:
            found = found[name] if index is None else found[int(index)]
        except (KeyError, IndexError, TypeError) as exc:
            raise UnknownVariable(f"there is no {path!r}") from exc
    return found


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
