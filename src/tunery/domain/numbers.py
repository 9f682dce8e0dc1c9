"""Numbers as clients write them."""

from typing import Any

EXACT = 2**53  # beyond, a float no longer tells one integer from the next


def whole(value: Any) -> Any:
    """`3.0` is 3: languages with one number type, and tables, send every integer so. What is none stays as it is."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT:
        return int(value)
    return value
