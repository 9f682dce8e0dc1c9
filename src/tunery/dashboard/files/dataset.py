"""One dataset: its rows as conversations with what is trained marked, to be looked through and mended; its report, its
versions, split and download."""

import asyncio
from copy import deepcopy
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.checks import split
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import model_label
from tunery.dashboard.components.conversation import raw_line
from tunery.dashboard.components.report import check_file, show_report
from tunery.dashboard.connection import Failure
from tunery.dashboard.files.editor import NEW_ROW, Draft, RowCard
from tunery.dashboard.files.saving import Replacing, Saving
from tunery.dashboard.models import list_models, trainable
from tunery.dashboard.visit import BASE, Visit, notify
from tunery.texts import Translator
from tunery.texts.amounts import size

PAGE = 20
VALIDATION_SHARE = 0.1
MAX_DIGITS = 10  # of a line's number


async def build(visit: Visit) -> None:
    file_id, t = visit.param("file_id"), visit.t
    listed, models = await asyncio.gather(
        visit.connection.get(f"/tunery/v1/files/{file_id}/versions"),
        list_models(visit.connection, limit=1),  # its fine-tunes count as their bases do
    )
    this = next(each for each in listed["data"] if each["file"]["id"] == file_id)
    file = this["file"]
    bases = {model.name: model_label(model) for model in trainable(models) if model.kind == "base"}
    page = DatasetPage(visit, file, bases)
    with ui.element("div").classes("heading"):
        about = [file_id, size(file["bytes"]), t("edit.number", n=this["number"])]
        blocks.show_title(file["filename"], " · ".join(about))
        with ui.element("div").classes("buttons"):
            html.show(html.button_link(f"{BASE}/download/{file_id}", t("action.download"), symbol="download"))
            html.show(html.button_link(f"{BASE}/datasets/{file_id}/versions", t("edit.versions"), symbol="history"))
            blocks.button(t("edit.replace"), page.replace, symbol="find_replace")
            blocks.button(t("dataset.split"), page.split, symbol="call_split")
            html.show(html.button_link(f"{BASE}/jobs/new?file={file_id}", t("jobs.create"), primary=True, symbol="add"))
    newest = listed["data"][0]
    if newest is not this:
        link = html.link(f"{BASE}/datasets/{newest['file']['id']}", t("edit.number", n=newest["number"]))
        blocks.note(Markup("{} {}").format(t("edit.not_newest"), link), kind="warn")
    page.draw()
    if page.problem:  # every row is judged until enough have it: the page is there before them
        ui.timer(0, page.load, once=True)
    else:
        await page.load()
    ui.timer(0, page.check, once=True)  # a large file takes its time: the page is there before its report


class DatasetPage:
    def __init__(self, visit: Visit, file: dict[str, Any], bases: dict[str, str]) -> None:
        self.visit, self.t, self.file, self.bases = visit, visit.t, file, bases
        self.file_id: str = file["id"]
        self.draft = Draft.of(visit, self.file_id)
        wanted = visit.query("line")  # from which on rows are shown at first
        self.starts = [max(0, int(wanted) - 1) if wanted.isdecimal() and len(wanted) < MAX_DIGITS else 0]
        self.lines, self.problem = visit.query("lines"), visit.query("problem")

    # ---- the page
    def draw(self) -> None:
        t = self.t
        with ui.element("div").classes("columns form"):
            with ui.element("div").classes("stack"):
                with ui.element("div").classes("fields"):
                    self.text = ui.input(t("dataset.search"), on_change=self.search)
                    self.text.props("outlined dense clearable type=search debounce=300")
                    self.go_to = ui.number(t("edit.go_to"), min=1, step=1, on_change=self.jump)
                    self.go_to.props("outlined dense debounce=600")
                self._draw_filter()
                self.list = ui.element("div").classes("stack")
                with self.list:
                    ui.spinner()
                self.nothing = ui.label(t("dataset.nothing")).classes("muted")
                self.nothing.visible = False
                with ui.element("div").classes("buttons"):
                    self.previous = blocks.button(t("edit.previous"), self.back, symbol="chevron_left")
                    self.following = blocks.button(t("edit.next"), self.forth, symbol="chevron_right")
                    self.adding = blocks.button(t("edit.add_row"), self.add_row, symbol="add")
                    self.place = ui.label("").classes("muted small").props("aria-live=polite")
            with blocks.panel(t("dataset.report")):
                self.model = ui.select(
                    self.bases, value=next(iter(self.bases)), label=t("jobs.base"), on_change=self.check
                )
                self.model.props("outlined dense options-dense")
                self.report = ui.element("div").classes("stack").props("aria-live=polite")
        with ui.element("div").classes("savebar") as self.bar:
            self.pending = ui.label("").props("role=status")
            with ui.element("div").classes("buttons"):
                blocks.danger_button(
                    t, t("edit.discard"), self.discard, title=t("edit.discard_title"), text=t("edit.discard_text")
                )
                blocks.button(t("edit.save"), self.save, primary=True, symbol="save")
        self.show_pending()

    def _draw_filter(self) -> None:
        """Which rows are meant when a finding of the report has led here."""
        if not (self.lines or self.problem):
            return
        shown = self.t("edit.only_lines", lines=self.lines.replace(",", ", ")) if self.lines else ""
        shown = shown or self.t("edit.only_problem", problem=self.problem)
        every = html.link(f"{BASE}/datasets/{self.file_id}", self.t("edit.every_row"))
        blocks.note(Markup("{} {}").format(shown[:300], every))

    async def check(self) -> None:
        report = await check_file(self.visit, self.report, file_id=self.file_id, model=str(self.model.value))
        if report is not None:
            with self.report:
                if report["format"] is None and report["num_lines"]:
                    link = html.link(f"{BASE}/datasets/table/{self.file_id}", self.t("table.choose_columns"))
                    blocks.note(Markup("{} {}").format(self.t("table.is_table"), link))
                show_report(report, self.t, links=True)

    # ---- rows
    async def search(self) -> None:
        self.starts = [0]
        await self.load()

    async def jump(self) -> None:
        if self.go_to.value:
            self.starts = [max(0, int(self.go_to.value) - 1)]
            await self.load()

    async def back(self) -> None:
        start = self.starts.pop()
        if not self.starts:  # somewhere in the midst was jumped to
            self.starts = [max(0, start - PAGE)]
        await self.load()

    async def forth(self) -> None:
        self.starts.append(self.last_line)
        await self.load()

    async def load(self) -> None:
        start = self.starts[-1]
        wanted = {"model": str(self.model.value), "search": self.text.value or "", "after": start}
        wanted |= {"lines": self.lines, "problem": self.problem}
        path = f"/tunery/v1/files/{self.file_id}/rows"
        page = await self.visit.result_of(self.visit.connection.get(path, limit=PAGE, **wanted))
        if isinstance(page, Failure):
            return
        rows = page["data"]
        self.list.clear()
        with self.list:
            self.cards = [RowCard(self.t, self.draft, row, self.about(row), self.show_pending) for row in rows]
        self.last_line = rows[-1]["line"] if rows else start
        self.previous.visible, self.following.visible = start > 0, page["has_more"]
        self.nothing.visible, self.adding.visible = not rows, bool(rows)
        total = self.file["num_rows"]
        shown = {"first": f"{rows[0]['line']:,}", "last": f"{self.last_line:,}"} if rows else {}
        self.place.text = self.t("edit.place", total=html.number(total), **shown) if rows else ""

    def about(self, row: dict[str, Any]) -> Markup:
        """Its line, what it comes to, and what is wrong with it."""
        t = self.t
        counts = ""
        if row.get("num_tokens"):
            counts = t("dataset.counts", tokens=row["num_tokens"], trained=row["num_trained_tokens"])
        problems = Markup("").join(Markup("<li>{}</li>").format(t.word(it, "message")) for it in row["problems"][:5])
        return Markup('<div class="line"><span>{}</span><span>{}</span></div>{}{}').format(
            t("dataset.line", n=row["line"]),
            counts,
            Markup('<ul class="problems small">{}</ul>').format(problems) if problems else "",
            _unreadable(row["text"] or "", t) if row["example"] is None else "",
        )

    def add_row(self) -> None:
        """Behind the last row that is shown."""
        self.cards[-1].add(deepcopy(NEW_ROW))

    # ---- saving
    def show_pending(self) -> None:
        self.bar.visible = bool(self.draft.count)
        self.pending.text = self.t("edit.pending", n=self.draft.count)

    async def discard(self) -> None:
        self.draft.clear()
        self.show_pending()
        await self.load()

    async def save(self) -> None:
        await Saving(self.visit, self.draft).open()

    def replace(self) -> None:
        Replacing(self.visit, self.draft).open()

    async def split(self) -> None:
        files = await self.visit.result_of(split(self.visit.connection, self.file_id, VALIDATION_SHARE))
        if not isinstance(files, Failure):
            notify(self.t("dataset.split_done"))
            ui.navigate.to(f"/jobs/new?file={files['training_file']}&validation={files['validation_file']}")


def _unreadable(text: str, t: Translator) -> Markup:
    return Markup('<p class="muted small">{}</p>{}').format(t("dataset.unreadable"), raw_line(text))
