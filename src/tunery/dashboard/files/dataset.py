"""One dataset: its report, its rows as conversations with what is trained marked, split and download."""

from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.checks import split
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import model_label
from tunery.dashboard.components.conversation import example, raw_line
from tunery.dashboard.components.report import check_file, show_report
from tunery.dashboard.connection import Failure
from tunery.dashboard.models import list_models, trainable
from tunery.dashboard.visit import BASE, Visit, notify
from tunery.texts import Translator
from tunery.texts.amounts import size

PAGE = 20
VALIDATION_SHARE = 0.1
MAX_DIGITS = 10  # of a line's number


async def build(visit: Visit) -> None:
    file_id = visit.param("file_id")
    file = await visit.connection.client.files.retrieve(file_id)
    models = trainable(await list_models(visit.connection, limit=1))  # its fine-tunes count as their bases do
    page = DatasetPage(visit, file_id, {model.name: model_label(model) for model in models if model.kind == "base"})
    with ui.element("div").classes("heading"):
        blocks.show_title(file.filename, f"{file.id} · {size(file.bytes)}")
        with ui.element("div").classes("buttons"):
            html.show(html.button_link(f"{BASE}/download/{file_id}", visit.t("action.download"), symbol="download"))
            blocks.button(visit.t("dataset.split"), page.split, symbol="call_split")
            html.show(
                html.button_link(f"{BASE}/jobs/new?file={file_id}", visit.t("jobs.create"), primary=True, symbol="add")
            )
    page.draw()
    await page.load_more()
    ui.timer(0, page.check, once=True)  # a large file takes its time: the page is there before its report


class DatasetPage:
    def __init__(self, visit: Visit, file_id: str, bases: dict[str, str]) -> None:
        self.visit, self.t, self.file_id, self.bases = visit, visit.t, file_id, bases
        wanted = visit.query("line")  # from which on rows are shown at first
        self.last_line = max(0, int(wanted) - 1) if wanted.isdecimal() and len(wanted) < MAX_DIGITS else 0

    def draw(self) -> None:
        t = self.t
        with ui.element("div").classes("columns form"):
            with ui.element("div").classes("stack"):
                self.text = ui.input(t("dataset.search"), on_change=self.search)
                self.text.props("outlined dense clearable type=search debounce=300")
                self.list = ui.element("div").classes("stack")
                self.nothing = ui.label(t("dataset.nothing")).classes("muted")
                self.more = blocks.button(t("action.more"), self.load_more)
            with blocks.panel(t("dataset.report")):
                self.model = ui.select(
                    self.bases, value=next(iter(self.bases)), label=t("jobs.base"), on_change=self.check
                )
                self.model.props("outlined dense options-dense")
                self.report = ui.element("div").classes("stack").props("aria-live=polite")

    async def check(self) -> None:
        report = await check_file(self.visit, self.report, file_id=self.file_id, model=str(self.model.value))
        if report is not None:
            with self.report:
                show_report(report, self.t)

    async def search(self) -> None:
        self.last_line = 0
        self.list.clear()
        await self.load_more()

    async def load_more(self) -> None:
        wanted = {"model": str(self.model.value), "search": self.text.value or "", "after": self.last_line}
        path = f"/tunery/v1/files/{self.file_id}/rows"
        page = await self.visit.result_of(self.visit.connection.get(path, limit=PAGE, **wanted))
        if isinstance(page, Failure):
            return
        with self.list:
            for row in page["data"]:
                html.show(self.row(row)).classes("example")
                self.last_line = row["line"]
        self.more.visible = page["has_more"]
        self.nothing.visible = not self.last_line

    def row(self, row: dict[str, Any]) -> Markup:
        t = self.t
        counts = ""
        if row.get("num_tokens"):
            counts = t("dataset.counts", tokens=row["num_tokens"], trained=row["num_trained_tokens"])
        shown = example(row["example"], t) if row["example"] is not None else _unreadable(row["text"] or "", t)
        problems = Markup("").join(Markup("<li>{}</li>").format(t.word(it, "message")) for it in row["problems"][:5])
        return Markup('<div class="line"><span>{}</span><span>{}</span></div>{}{}').format(
            t("dataset.line", n=row["line"]),
            counts,
            Markup('<ul class="problems small">{}</ul>').format(problems) if problems else "",
            shown,
        )

    async def split(self) -> None:
        files = await self.visit.result_of(split(self.visit.connection, self.file_id, VALIDATION_SHARE))
        if not isinstance(files, Failure):
            notify(self.t("dataset.split_done"))
            ui.navigate.to(f"/jobs/new?file={files['training_file']}&validation={files['validation_file']}")


def _unreadable(text: str, t: Translator) -> Markup:
    return Markup('<p class="muted small">{}</p>{}').format(t("dataset.unreadable"), raw_line(text))
