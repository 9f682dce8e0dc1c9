"""Saving edits of a dataset as a new version: what they come to is shown first, and whoever comes second is told."""

from typing import Any

from markupsafe import Markup
from nicegui import ui
from openai import BadRequestError

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.difference import row_difference
from tunery.dashboard.connection import Failure
from tunery.dashboard.files.editor import Draft
from tunery.dashboard.visit import BASE, Visit, notify
from tunery.texts import Translator

WHERE = ("system", "user", "assistant", "all")


def counts_text(made: dict[str, Any], t: Translator) -> str:
    names = ("added", "removed", "changed")
    return t("edit.counts", **{name: f"{made[f'num_{name}']:,}" for name in names})


def maker_text(version: dict[str, Any], t: Translator) -> str | Markup:
    maker = version["made_by"]
    return html.DASH if maker is None else maker["name"] or maker["key_id"] or html.DASH


class Saving:
    """A dialog that shows the difference and saves it. `replace` goes along with what else was edited."""

    def __init__(self, visit: Visit, draft: Draft, replace: dict[str, Any] | None = None) -> None:
        self.visit, self.t, self.draft, self.replace = visit, visit.t, draft, replace
        self.path = f"/tunery/v1/files/{draft.file_id}/versions"

    @property
    def edits(self) -> dict[str, Any]:
        return self.draft.body() | ({"replace": self.replace} if self.replace else {})

    async def preview(self) -> dict[str, Any] | None:
        found = await self.visit.result_of(self.visit.connection.post(f"{self.path}/preview", self.edits))
        return None if isinstance(found, Failure) else found

    async def open(self) -> None:
        found = await self.preview()
        if found is None:
            return
        with blocks.dialog_box(self.t("edit.save_title")) as self.dialog:
            self.area = ui.element("div").classes("stack")
        with self.area:
            ui.label(counts_text(found, self.t))
            show_differences(found, self.t)
            with ui.element("div").classes("buttons end"):
                blocks.button(self.t("action.back"), self.dialog.close)
                blocks.button(self.t("edit.save_version"), self.save, primary=True, symbol="save")
        self.dialog.on("hide", self.dialog.delete)
        self.dialog.open()

    async def save(self, **more: Any) -> None:
        made = await self.visit.ask(self.visit.connection.post(self.path, {**self.edits, **more}))
        if isinstance(made, Failure):
            await self._refused(made, more)
            return
        self.draft.clear()
        notify(self.t("edit.saved", number=made["number"]))
        ui.navigate.to(f"/datasets/{made['file']['id']}")

    async def _refused(self, failure: Failure, asked: dict[str, Any]) -> None:
        """What was typed stays, whatever the reason."""
        code = failure.error.code if isinstance(failure.error, BadRequestError) else None
        if code == "newer_version":
            await self._show_newer()
        elif code == "rows_changed_too":
            self._ask_which(failure.message(self.t), asked)
        else:
            with self.area:
                notify(f"{failure.message(self.t)} {self.t('edit.kept')}", bad=True)

    async def _show_newer(self) -> None:
        """Somebody else was sooner: the edits can be carried over to what they have saved."""
        listed = await self.visit.result_of(self.visit.connection.get(self.path))
        if isinstance(listed, Failure):
            return
        newest, t = listed["data"][0], self.t
        newest_id = newest["file"]["id"]
        self.area.clear()
        with self.area:
            words = t("edit.newer", number=newest["number"], who=maker_text(newest, t), counts=counts_text(newest, t))
            blocks.note(words, kind="warn")
            html.show(html.link(f"{BASE}/datasets/{newest_id}/versions", t("edit.look_at", number=newest["number"])))
            with ui.element("div").classes("buttons end"):
                blocks.button(t("action.back"), self.dialog.close)
                blocks.button(
                    t("edit.save_onto", number=newest["number"]), lambda: self.save(onto=newest_id), primary=True
                )

    def _ask_which(self, message: str, asked: dict[str, Any]) -> None:
        t = self.t
        self.area.clear()
        with self.area:
            blocks.note(message, kind="warn")
            with ui.element("div").classes("buttons end"):
                blocks.button(t("action.back"), self.dialog.close)
                blocks.button(t("edit.keep_theirs"), lambda: self.save(**asked, prefer="theirs"))
                blocks.button(t("edit.keep_mine"), lambda: self.save(**asked, prefer="mine"), primary=True)


class Replacing:
    """A dialog: a text in all instructions, questions or answers, counted and shown before it is replaced."""

    def __init__(self, visit: Visit, draft: Draft) -> None:
        self.visit, self.t, self.draft = visit, visit.t, draft

    def open(self) -> None:
        t = self.t
        with blocks.dialog_box(t("edit.replace")) as self.dialog:
            if self.draft.count:
                ui.label(t("edit.replace_along", n=self.draft.count)).classes("muted small")
            self.find = ui.textarea(t("edit.find"), on_change=self.forget).props("outlined autogrow")
            self.put = ui.textarea(t("edit.put"), on_change=self.forget).props("outlined autogrow")
            where = {name: t(f"edit.where_{name}") for name in WHERE}
            self.where = ui.select(where, value="system", label=t("edit.where"), on_change=self.forget)
            self.where.props("outlined dense options-dense")
            self.any_case = ui.checkbox(t("edit.any_case"), on_change=self.forget)
            self.result = ui.element("div").classes("stack").props("aria-live=polite")
            with ui.element("div").classes("buttons end"):
                blocks.button(t("action.back"), self.dialog.close)
                blocks.button(t("edit.count"), self.count, symbol="search")
                self.go = blocks.button(t("edit.save_version"), self.save, primary=True, symbol="save")
        self.go.set_enabled(False)
        self.dialog.on("hide", self.dialog.delete)
        self.dialog.open()

    def forget(self) -> None:
        """What was counted was of something else."""
        self.result.clear()
        self.go.set_enabled(False)

    def saving(self) -> Saving:
        chosen = {"find": self.find.value or "", "put": self.put.value or "", "where": self.where.value}
        return Saving(self.visit, self.draft, {**chosen, "any_case": bool(self.any_case.value)})

    async def count(self) -> None:
        if not self.find.value:
            return
        found = await self.saving().preview()
        self.result.clear()
        if found is None:
            return
        with self.result:
            ui.label(self.t("edit.replaced", n=f"{found['num_replaced']:,}", rows=f"{found['num_changed']:,}"))
            show_differences(found, self.t)
        self.go.set_enabled(found["num_replaced"] > 0)

    async def save(self) -> None:
        saving = self.saving()
        saving.dialog, saving.area = self.dialog, self.result
        await saving.save()


def show_differences(found: dict[str, Any], t: Translator) -> None:
    with ui.element("div").classes("differences").props(f'tabindex=0 role=region aria-label="{t("edit.difference")}"'):
        for each in found["rows"]:
            html.show(row_difference(each, t)).classes("example")
    total = sum(found[f"num_{name}"] for name in ("added", "removed", "changed"))
    if total > len(found["rows"]):
        ui.label(t("edit.more", shown=len(found["rows"]), total=f"{total:,}")).classes("muted small")
