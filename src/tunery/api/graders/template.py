"""`{{ item.answer }}` and `{{ sample.output_text }}` in a grader's texts. Paths only: nothing is evaluated.

Scanned from left to right without a regular expression: one that trims spaces backtracks, and the text is the
client's.
"""

import json
from collections.abc import Iterator
from typing import Any

from tunery.domain.errors import InvalidRequest

NAMESPACES = ("item", "sample")
MAX_RENDERED = 1_000_000  # characters: a short template may name a long item many times
MAX_INDEX_DIGITS = 9


class UnknownVariable(ValueError):
    """A template names what neither the item nor the sample has."""


def sample_of(text: str, message: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `sample` holds. `output_json` only when the text is JSON, `output_tools` when the message calls some."""
    message = message or {"role": "assistant", "content": text}
    sample: dict[str, Any] = {"output_text": text, "choices": [{"index": 0, "message": message}]}
    if message.get("tool_calls"):
        sample["output_tools"] = message["tool_calls"]
    try:
        sample["output_json"] = json.loads(text)
    except (ValueError, RecursionError):
        return sample
    return sample


def render(template: str, values: dict[str, Any]) -> str:
    """The template with every place filled. Raises UnknownVariable, and InvalidRequest when it grows too long."""
    parts, length, rest = [], 0, 0
    for start, end, path in _places(template):
        filled = as_text(look_up(path, values))
        parts += [template[rest:start], filled]
        length += start - rest + len(filled)
        rest = end
        _check_length(length)
    parts.append(template[rest:])
    _check_length(length + len(parts[-1]))
    return "".join(parts)


def _check_length(length: int) -> None:
    if length > MAX_RENDERED:
        raise InvalidRequest(
            f"A grader's text may have {MAX_RENDERED:,} characters when its places are filled, and this one has more.",
            param="grader",
            code="string_above_max_length",
        )


def variables(template: str) -> Iterator[str]:
    """The paths that the template names."""
    return (path for _, _, path in _places(template))


def _places(template: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, path) of every `{{ path }}`, braces included. A path holds no brace."""
    position = 0
    while (close := template.find("}}", position)) >= 0:
        start = template.rfind("{{", position, close)
        path = template[start + 2 : close] if start >= 0 else "{"
        if "{" not in path and "}" not in path:
            yield start, close + 2, path.strip()
        position = close + 2


def look_up(path: str, values: Any) -> Any:
    """What `item.places[0].name` leads to; also into JSON that a text holds, such as the arguments of a call. Raises
    UnknownVariable."""
    found = values
    for step in path.replace("]", "").replace("[", ".[").split("."):
        name = step.removeprefix("[")
        if not name:
            continue
        is_index = step.startswith("[") and name.isdecimal() and len(name) <= MAX_INDEX_DIGITS
        try:
            found = (json.loads(found) if isinstance(found, str) else found)[int(name) if is_index else name]
        except (KeyError, IndexError, TypeError, ValueError, RecursionError) as exc:
            raise UnknownVariable(f"there is no {path[:100]!r}") from exc
    return found


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
