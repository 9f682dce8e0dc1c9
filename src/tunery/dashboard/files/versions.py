"""The versions of a dataset: what each was made of, by whom and when, and what is different row by row."""

from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.difference import row_difference
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.files.saving import counts_text, maker_text
from tunery.dashboard.visit import BASE, Visit
from tunery.texts import Translator

PAGE = 20


async def build(visit: Visit) -> None:
    file_id, t = visit.param("file_id"), visit.t
    listed = await visit.connection.get(f"/tunery/v1/files/{file_id}/versions")
    versions = {each["file"]["id"]: each for each in listed["data"]}
    this = versions[file_id]
    back = html.button_link(f"{BASE}/datasets/{file_id}", t("edit.open_rows"), symbol="arrow_back")
    blocks.heading(this["file"]["filename"], t("edit.versions"), actions=back)
    _table(versions, this, t)
    with blocks.panel(_title(this, versions, t)):
        page = Differences(visit, file_id)
        page.draw()
        await page.load_more()


def _table(versions: dict[str, dict[str, Any]], this: dict[str, Any], t: Translator) -> None:
    columns = [
        Column(t("edit.version"), numeric=True),
        Column(t("jobs.created")),
        Column(t("edit.made_by")),
        Column(t("edit.made_of"), wide=True),
        Column(t("datasets.num_rows"), numeric=True),
        Column(t("edit.difference")),
    ]
    rows = []
    for file_id, each in versions.items():
        name = t("edit.number", n=each["number"])
        shown = name if each is this else html.link(f"{BASE}/datasets/{file_id}/versions", name)
        rows.append(
            Row(
                file_id,
                [
                    html.two_lines(shown, Markup("{}").format(t("edit.this_one"))) if each is this else shown,
                    html.when(each["created_at"], t),
                    maker_text(each, t),
                    _origin(each, versions, t),
                    html.number(each["file"]["num_rows"]),
                    counts_text(each, t) if each["parent"] else html.DASH,
                ],
            )
        )
    Table(t("edit.versions"), columns, rows)


def _origin(version: dict[str, Any], versions: dict[str, dict[str, Any]], t: Translator) -> str:
    if version["source"]:
        return version["source"]
    if version["parent"] is None:
        return t("edit.uploaded")
    parent = versions.get(version["parent"])
    return t("edit.number", n=parent["number"]) if parent else version["parent"]


def _title(this: dict[str, Any], versions: dict[str, dict[str, Any]], t: Translator) -> str:
    if this["parent"] is None:
        return t("edit.no_difference", number=this["number"])
    return t("edit.difference_of", number=this["number"], other=_origin(this, versions, t))


class Differences:
    def __init__(self, visit: Visit, file_id: str) -> None:
        self.visit, self.t, self.next = visit, visit.t, 0
        self.path = f"/tunery/v1/files/{file_id}/difference"

    def draw(self) -> None:
        self.list = ui.element("div").classes("stack")
        self.more = blocks.button(self.t("action.more"), self.load_more)

    async def load_more(self) -> None:
        page = await self.visit.result_of(self.visit.connection.get(self.path, after=self.next, limit=PAGE))
        if isinstance(page, Failure):
            return
        with self.list:
            for each in page["data"]:
                html.show(row_difference(each, self.t)).classes("example")
        self.next = page["next"]
        self.more.visible = page["has_more"]
