"""Lists on the wire. A cursor that names nothing gives an empty page, so that a client's loop ends."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel

MAX_PAGE = 1_000
MAX_FILE_PAGE = 10_000


Item = TypeVar("Item", bound=BaseModel)

# `limit=0` is valid and gives an empty page: the official SDK's own tests ask for it.
Limit = Annotated[int, Query(ge=0, le=MAX_PAGE, description=f"Objects a page, at most {MAX_PAGE}.")]
FileLimit = Annotated[int, Query(ge=0, le=MAX_FILE_PAGE, description=f"Files a page, at most {MAX_FILE_PAGE}.")]
After = Annotated[str | None, Query(description="The id of the last object of the page before.", max_length=200)]


class Listing(BaseModel, Generic[Item]):
    """A list without first and last ids: jobs and events."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool


class CursorListing(BaseModel, Generic[Item]):
    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


def cursor_listing(items: list, has_more: bool) -> dict[str, Any]:
    """The fields of a CursorListing; first and last are null on an empty page."""
    first, last = (items[0].id, items[-1].id) if items else (None, None)
    return {"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": has_more}
