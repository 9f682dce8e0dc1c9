"""Files: dropped in, listed, searched, deleted. Training files lead to their rows; others can be downloaded."""

from pathlib import Path
from typing import Any

from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import version_text
from tunery.dashboard.components.drop import Drop
from tunery.dashboard.components.start import first_steps
from tunery.dashboard.components.table import Column, Page, PagedTable, Row
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import BASE, Visit
from tunery.datasets.tables import TABLES
from tunery.texts.amounts import size

PAGE = 50


def file_path(file: dict[str, Any]) -> str:
    """Its page, or where there is none its bytes."""
    is_dataset = file["purpose"] == "fine-tune"
    is_table = file["purpose"] == "user_data" and Path(file["filename"]).suffix.lower() in TABLES
    place = "datasets" if is_dataset else "datasets/table" if is_table else "download"
    return f"{BASE}/{place}/{file['id']}"


async def build(visit: Visit) -> None:
    page = FilesPage(visit)
    first = await page.fetch()
    blocks.heading(visit.t("datasets.title"), visit.t("datasets.subtitle"))
    page.draw(first)


class FilesPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.text = ""

    async def fetch(self, after: str = "") -> Page:
        """The next files of those that hold the text."""
        page = await self.visit.connection.get("/tunery/v1/files", search=self.text, after=after, limit=PAGE)
        return [self.row(file) for file in page["data"]], page["has_more"]

    def draw(self, first: Page) -> None:
        with blocks.panel():
            Drop(self.t, self.t("upload.drop"), self.on_upload)
        if not first[0]:
            first_steps(self.t)
            return
        self.search = ui.input(self.t("datasets.search"), on_change=self.refilter)
        self.search.props("outlined dense clearable type=search debounce=300")
        columns = [
            Column(self.t("datasets.name"), wide=True),
            Column(self.t("datasets.purpose")),
            Column(self.t("datasets.num_rows"), numeric=True),
            Column(self.t("datasets.size"), numeric=True),
            Column(self.t("jobs.created")),
            Column(self.t("action.actions"), numeric=True),
        ]
        self.table = PagedTable(self.visit, self.t("datasets.title"), columns, first, self.fetch)
        self.nothing = ui.label(self.t("datasets.none")).classes("muted")
        self.nothing.visible = False

    def row(self, file: dict[str, Any]) -> Row:
        told = (version_text(file, self.t), file["id"])
        return Row(
            file["id"],
            [
                html.two_lines(html.link(file_path(file), file["filename"]), " · ".join(filter(None, told))),
                self.t.named("purpose", file["purpose"]),
                html.number(file["num_rows"]),
                size(file["bytes"]),
                html.when(file["created_at"], self.t),
            ],
            actions=lambda: self.actions(file),
        )

    def actions(self, file: dict[str, Any]) -> None:
        blocks.danger_button(
            self.t,
            self.t("action.delete"),
            lambda: self.delete(file["id"]),
            title=self.t("datasets.delete_title", name=file["filename"]),
            text=self.t("datasets.delete_text"),
        )

    async def refilter(self) -> None:
        self.text = self.search.value or ""
        page = await self.visit.result_of(self.fetch())
        if not isinstance(page, Failure):
            self.table.restart(page)
            self.nothing.visible = not page[0]

    async def delete(self, file_id: str) -> None:
        done = self.visit.connection.client.files.delete(file_id)
        if await self.visit.attempt(done, done=self.t("action.deleted")):
            await self.refilter()

    async def on_upload(self, stored: dict[str, Any]) -> None:
        ui.navigate.to(f"/datasets/{stored['id']}")
