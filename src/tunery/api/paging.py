"""Objects on the wire, and lists of them. A cursor that names nothing gives an empty page: a client's loop ends."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict

from tunery.store.paging import Page

MAX_PAGE = 1_000
MAX_FILE_PAGE = 10_000


Item = TypeVar("Item", bound=BaseModel)
Found = TypeVar("Found")

# `limit=0` is valid and gives an empty page: the official SDK's own tests ask for it.
Limit = Annotated[int, Query(ge=0, le=MAX_PAGE, description=f"Objects a page, at most {MAX_PAGE}.")]
FileLimit = Annotated[int, Query(ge=0, le=MAX_FILE_PAGE, description=f"Files a page, at most {MAX_FILE_PAGE}.")]
After = Annotated[str | None, Query(description="The id of the last object of the page before.", max_length=200)]


class Resource(BaseModel):
    """An object of ours as JSON. `of` takes a field's value from the attribute of that name, or of `validation_alias`;
    what the object lacks has the field's default."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, found: object) -> Self:
        return cls.model_validate(found)


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

    @classmethod
    def of(cls, page: Page[Found], wire: Callable[[Found], Item]) -> Self:
        """First and last id are null on an empty page."""
        data: list[Any] = [wire(item) for item in page.items]
        first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=data, first_id=first_id, last_id=last_id, has_more=page.has_more)
