"""What the frame has to know of a page."""

from dataclasses import dataclass

from tunery.dashboard.visit import Body


@dataclass(frozen=True)
class PageSpec:
    path: str  # below the dashboard's own address; `{name}` is a parameter
    title: str  # key of its text
    build: Body
    section: str  # the entry of the navigation that is marked
