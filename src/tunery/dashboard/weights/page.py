"""Weights: an adapter from elsewhere becomes a model; what was imported and exported, and how far each is."""

from functools import partial
from typing import Any

from markupsafe import Markup, escape
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import Choice, Models
from tunery.dashboard.components.drop import Drop
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.table import Column, Page, PagedTable, Row
from tunery.dashboard.connection import Failure
from tunery.dashboard.models import Model, list_models, playground_path
from tunery.dashboard.visit import Visit, notify
from tunery.dashboard.weights.exports import Cancels, Exports, is_under_way, progress

PAGE = 20
ACCEPTS = ".tar,.gz,.tgz,.gguf,.safetensors,.json,.jinja"
OF_FILES, OF_BASE, OWN = "files", "base", "own"


def _is_base(model: Model) -> bool:
    return model.kind == "base"


async def build(visit: Visit) -> None:
    bases = list(filter(_is_base, await list_models(visit.connection, limit=1)))
    page = ImportsPage(visit, Models(visit, bases, wanted=_is_base))
    first = await page.fetch()
    blocks.heading(visit.t("weights.title"), visit.t("weights.subtitle"))
    page.draw(first)
    exports = Exports(visit, of_all=True)
    if await exports.refresh():
        exports.poll.again()


class ImportsPage:
    def __init__(self, visit: Visit, models: Models) -> None:
        self.visit, self.t, self.models = visit, visit.t, models
        self.files: dict[str, str] = {}  # what is uploaded for the next import: names by id
        self.may_change = False
        self.cancels = Cancels(visit, "/tunery/v1/imports", self.refresh)

    async def fetch(self, after: str = "") -> Page:
        page = await self.visit.connection.get("/tunery/v1/imports", after=after, limit=PAGE)
        self.cancels.update(page["data"])
        self.may_change = any(map(is_under_way, page["data"]))
        return [self.row(each) for each in page["data"]], page["has_more"]

    def draw(self, first: Page) -> None:
        t = self.t
        with blocks.panel(t("weights.import")):
            ui.label(t("weights.import_text")).classes("muted small")
            Drop(t, t("weights.drop"), self.on_upload, purpose="user_data", accept=ACCEPTS, hint=t("weights.hint"))
            self.sent = ui.element("div").classes("buttons").props("aria-live=polite")
            self._draw_choices()
            with ui.element("div").classes("buttons"):
                blocks.button(t("weights.begin"), self.begin, primary=True, symbol="download")
        columns = [
            Column(t("jobs.status")),
            Column(t("jobs.model"), wide=True),
            Column(t("jobs.base")),
            Column(t("jobs.created")),
            Column(t("action.actions"), numeric=True),
        ]
        with blocks.panel(t("weights.imports")) as self.panel:
            self.table = PagedTable(self.visit, t("weights.imports"), columns, first, self.fetch)
        self.panel.visible = bool(first[0])
        self.poll = Poll(self.refresh)
        if not self.may_change:
            self.poll.stop()

    def _draw_choices(self) -> None:
        t = self.t
        labels = {name: label for name, label in self.models.labels().items() if _is_base(self.models.known[name])}
        with ui.element("div").classes("fields"):
            self.base = Choice(self.visit, t("jobs.base"), self.models.find, labels, value=next(iter(labels), None))
            self.suffix = ui.input(t("create.suffix"), placeholder=t("create.suffix_hint"))
            self.suffix.props("outlined dense maxlength=64")
            templates = {
                OF_FILES: t("weights.template_files"),
                OF_BASE: t("weights.template_base"),
                OWN: t("weights.template_own"),
            }
            self.template = ui.select(templates, value=OF_FILES, label=t("weights.template")).props("outlined dense")
        self.own = ui.textarea(t("weights.template_text")).props("outlined dense input-class=code")
        self.own.bind_visibility_from(self.template, "value", lambda value: value == OWN)

    async def on_upload(self, stored: dict[str, Any]) -> None:
        self.files[stored["id"]] = stored["filename"]
        self._show_files()

    def _show_files(self) -> None:
        self.sent.clear()
        with self.sent:
            for file_id, name in self.files.items():
                blocks.button(self.t("weights.remove", name=name), partial(self.remove, file_id), symbol="close")

    async def remove(self, file_id: str) -> None:
        """It was uploaded for the import alone."""
        if await self.visit.attempt(self.visit.connection.client.files.delete(file_id)):
            self.files.pop(file_id, None)
            self._show_files()

    async def begin(self) -> None:
        if not self.files:
            notify(self.t("weights.nothing_sent"), bad=True)
            return
        chosen = {OF_FILES: None, OF_BASE: "base", OWN: self.own.value or ""}[str(self.template.value)]
        body = {
            "files": list(self.files),
            "base": self.base.value or "",
            "suffix": (self.suffix.value or "").strip() or None,
            "chat_template": chosen,
        }
        made = self.visit.connection.post("/tunery/v1/imports", body)
        if await self.visit.attempt(made, done=self.t("weights.begun")):
            self.files = {}
            self._show_files()
            await self.refresh()
            self.poll.again()

    async def refresh(self) -> bool:
        """Whether to look again."""
        page = await self.visit.ask(self.fetch())
        if isinstance(page, Failure):
            return True
        self.table.restart(page)
        self.panel.visible = bool(page[0])
        return self.may_change

    def row(self, made: dict[str, Any]) -> Row:
        t, name = self.t, made["model"]
        told = Markup("").join(
            Markup('<span class="sub">{}</span>').format(each) for each in t.word_all(made, "warnings")
        )
        shown = html.link(playground_path(name), html.model_name(name)) if name else escape(made["suffix"] or html.DASH)
        state = html.two_lines(html.status_chip(made["status"], t), progress(made, t))
        cells = [state, shown + told, html.model_name(made["base"]), html.when(made["created_at"], t)]
        return Row(made["id"], cells, actions=partial(self.cancels.button, made))
