"""Numbers as clients write them."""

from typing import Any


def whole(value: Any) -> Any:
    """`3.0` is 3: languages with one number type, and tables, send every integer so. What is none stays as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
