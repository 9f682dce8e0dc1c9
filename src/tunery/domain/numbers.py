"""Numbers as clients write them."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from tunery.domain.json_body import as_list

EXACT = 2**53  # beyond, a float no longer tells one integer from the next


def whole_number(value: Any) -> Any:
    """`3.0` is 3: languages with one number type, and tables, send every integer so. What is none stays as it is. Of
    lists each item."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT:
        return int(value)
    if {float, list}.isdisjoint(map(type, as_list(value))):
        return value
    return [whole_number(item) for item in as_list(value)]


Int = Annotated[int, BeforeValidator(whole_number)]
"""Of a request: every integer in a body is one of these."""
