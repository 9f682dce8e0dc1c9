"""A table that is updated in place: only the cells that changed are sent, so that focus stays where it is."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape
from nicegui import ui

from tunery.dashboard.components.blocks import button
from tunery.dashboard.components.html import show
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import Visit

Cell = str | Markup
CONTENT = "innerHTML"
Narrow = Literal["list", "table", "two-lines"]
NARROW = {"list": "table-wrap", "table": "table-wrap compact", "two-lines": "table-wrap compact two-lines"}


@dataclass(frozen=True)
class Column:
    title: str
    numeric: bool = False
    wide: bool = False  # takes the room that is left


@dataclass(frozen=True)
class Row:
    key: str
    cells: Sequence[Cell]
    actions: Callable[[], None] | None = None  # builds buttons in a last cell


class Table:
    """In a narrow place each row becomes a list; with `narrow="table"` the table stays one, for few short columns; with
    "two-lines" a row keeps its first two cells and its buttons, of which the second tells the rest (`.brief`).
    The roles are said, since a table that is laid out as something else is none to assistive technology."""

    def __init__(
        self, caption: str, columns: Sequence[Column], rows: Sequence[Row] = (), *, narrow: Narrow = "list"
    ) -> None:
        self.columns = columns
        self._keys: list[str] = []
        self._cells: dict[str, list[ui.element]] = {}
        with (
            ui.element("div")
            .classes(NARROW[narrow])
            .props("tabindex=0 role=region")
            .props(f'aria-label="{escape(caption)}"'),
            ui.element("table").props("role=table"),
        ):
            show(escape(caption), tag="caption").classes("sr")
            with ui.element("thead").props("role=rowgroup"):
                self._head()
            self._body = ui.element("tbody").props("role=rowgroup")
        self.update(rows)

    def _head(self) -> None:
        with ui.element("tr").props("role=row"):
            for column in self.columns:
                show(escape(column.title), tag="th").props("scope=col role=columnheader").classes(_classes(column))

    def update(self, rows: Sequence[Row]) -> None:
        keys = [row.key for row in rows]
        if keys != self._keys:
            self._body.clear()
            self._cells = {}
            self._append(rows)
            self._keys = keys
            return
        for row in rows:
            for element, cell in zip(self._cells[row.key], row.cells, strict=False):
                if element.props[CONTENT] != (content := str(escape(cell))):
                    element.props[CONTENT] = content

    def extend(self, rows: Sequence[Row]) -> None:
        self._append(rows)
        self._keys += [row.key for row in rows]

    def _append(self, rows: Sequence[Row]) -> None:
        with self._body:
            for row in rows:
                with ui.element("tr").props("role=row"):
                    self._cells[row.key] = [
                        _cell(column, cell) for column, cell in zip(self.columns, row.cells, strict=False)
                    ]
                    if row.actions is not None:
                        with ui.element("td").classes("actions").props("role=cell"):
                            row.actions()


def _cell(column: Column, cell: Cell) -> ui.element:
    """Like `show`, which takes thrice as long: with hundreds of cells a page would wait for it."""
    element = ui.element("td").classes(_classes(column))
    element.props.update({CONTENT: str(escape(cell)), "role": "cell", "data-label": column.title})
    return element


Page = tuple[list[Row], bool]
"""Rows, and whether more follow."""


class PagedTable(Table):
    """Grows by a page with each press of the button below it."""

    def __init__(
        self,
        visit: Visit,
        caption: str,
        columns: Sequence[Column],
        first: Page,
        fetch: Callable[[str], Awaitable[Page]],
    ) -> None:
        """`fetch` gives the page after the row with this key."""
        super().__init__(caption, columns, first[0])
        self._visit, self._fetch = visit, fetch
        self._more = button(visit.t("action.more"), self._load_more)
        self._more.visible = first[1]

    def restart(self, page: Page) -> None:
        """From another beginning: what was searched for has changed."""
        rows, self._more.visible = page
        self.update(rows)

    async def _load_more(self) -> None:
        page = await self._visit.result_of(self._fetch(self._keys[-1]))
        if not isinstance(page, Failure):
            rows, self._more.visible = page
            self.extend(rows)


def _classes(column: Column) -> str:
    return " ".join(name for name, on in (("num", column.numeric), ("wide", column.wide)) if on)
