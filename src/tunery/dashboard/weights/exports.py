"""Taking models elsewhere: the four forms and what each is for, how far an export is, and its file."""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import BASE, Visit
from tunery.domain.transfers import FORMATS, STEPPED, TYPES
from tunery.texts import Translator
from tunery.texts.amounts import size

MAX_LOOKED_AT = 100  # the latest exports of the project
Export = dict[str, Any]


def progress(transfer: dict[str, Any], t: Translator) -> str:
    """Of an export or an import: how far it is, or why it failed."""
    if transfer["error"]:
        return t.word(transfer["error"], "message")
    told = transfer["progress"]
    if not told:
        return ""
    shown = str if told["doing"] in STEPPED else size
    amount = f" {shown(told['done'])} / {shown(told['total'])}" if told["total"] else ""
    return t.named("export.doing", told["doing"]) + amount


def is_under_way(transfer: dict[str, Any]) -> bool:
    return transfer["status"] in ("queued", "running")


class Cancels:
    """The buttons that end exports or imports, each there as long as its own is under way."""

    def __init__(self, visit: Visit, path: str, refresh: Callable[[], Awaitable[bool]]) -> None:
        self._visit, self._path, self._refresh = visit, path, refresh
        self._buttons: dict[str, ui.button] = {}

    def button(self, transfer: dict[str, Any]) -> None:
        made = blocks.button(self._visit.t("export.cancel"), partial(self._cancel, transfer["id"]), symbol="stop")
        self._buttons[transfer["id"]] = made
        made.visible = is_under_way(transfer)

    def update(self, transfers: Iterable[dict[str, Any]]) -> None:
        for each in transfers:
            if each["id"] in self._buttons:
                self._buttons[each["id"]].visible = is_under_way(each)

    async def _cancel(self, transfer_id: str) -> None:
        await self._visit.attempt(self._visit.connection.post(f"{self._path}/{transfer_id}/cancel"))
        await self._refresh()


class Exports:
    """A panel of what was exported, there once something was, and the dialog that asks for more. Of some models, or of
    all that the project has."""

    def __init__(self, visit: Visit, *, of_all: bool = False) -> None:
        self.visit, self.t, self.of_all = visit, visit.t, of_all
        self.models: list[str] = []
        self.found: list[Export] = []
        with blocks.panel(self.t("export.title")) as self.panel:
            columns = [
                Column(self.t("export.format")),
                Column(self.t("jobs.model"), wide=True),
                Column(self.t("jobs.status")),
                Column(self.t("export.proof")),
                Column(self.t("action.open")),
                Column(self.t("action.actions"), numeric=True),
            ]
            self.table = Table(self.t("export.title"), columns)
        self.cancels = Cancels(visit, "/tunery/v1/exports", self.refresh)
        self.panel.visible = False
        self.poll = Poll(self.refresh)
        self.poll.stop()

    async def show(self, models: list[str]) -> None:
        """Of these models: a job's own and its checkpoints."""
        if models != self.models:
            self.models = models
            if await self.refresh():
                self.poll.again()

    async def refresh(self) -> bool:
        """Whether to look again."""
        page = self.visit.connection.get("/tunery/v1/exports", limit=MAX_LOOKED_AT)
        answer = await self.visit.ask(page)
        if isinstance(answer, Failure):
            return True
        self.found = [each for each in answer["data"] if self.of_all or each["model"] in self.models]
        self.table.update([self._row(each) for each in self.found])
        self.cancels.update(self.found)
        self.panel.visible = bool(self.found)
        return any(map(is_under_way, self.found))

    def _row(self, export: Export) -> Row:
        t, status = self.t, export["status"]
        form = t(f"export.{export['format']}")
        kind = f"{form} ({export['type']})" if export["format"] in ("gguf", "ollama") else form
        file = export["file_id"]
        link = html.link(f"{BASE}/download/{file}", t("export.download")) if file else html.DASH
        state = html.two_lines(html.status_chip(status, t), progress(export, t))
        cells = [kind, html.model_name(export["model"]), state, self._proof(export), link]
        return Row(export["id"], cells, actions=partial(self.cancels.button, export))

    def _proof(self, export: Export) -> str | Markup:
        proof = export["proof"]
        if not proof:
            return html.DASH
        same = self.t("export.same", same=f"{proof['num_same_tokens']:,}", all=f"{proof['num_tokens']:,}")
        return html.two_lines(same, proof["program"])

    def ask(self) -> None:
        """The dialog."""
        t = self.t
        with blocks.dialog_box(t("export.title")) as dialog:
            ui.label(t("export.text")).classes("muted")
            model = ui.select(self.models, value=self.models[0], label=t("jobs.model")).props("outlined dense")
            model.visible = len(self.models) > 1
            forms = {form: f"{t(f'export.{form}')} – {t(f'export.{form}_text')}" for form in FORMATS}
            form = ui.radio(forms, value="merged").props("dense").classes("choices")
            kinds = {each: t(f"export.type_{each}") for each in TYPES}
            kind = ui.select(kinds, value=TYPES[0], label=t("export.type")).props("outlined dense")
            kind.bind_visibility_from(form, "value", lambda value: value in ("gguf", "ollama"))

            async def begin() -> None:
                body = {"format": form.value, "type": kind.value}
                path = f"/tunery/v1/models/{model.value}/exports"
                if await self.visit.attempt(self.visit.connection.post(path, body), done=t("export.begun")):
                    dialog.close()
                    await self.refresh()
                    self.poll.again()

            with ui.element("div").classes("buttons end"):
                blocks.button(t("action.back"), dialog.close)
                blocks.button(t("export.begin"), begin, primary=True)
        dialog.open()
