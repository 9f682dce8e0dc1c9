"""A model's other names in the project, and the projects that may use it."""

from typing import Any
from urllib.parse import quote

from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import Visit, notify

MAX_SHARED = 1_000


class Sharing:
    def __init__(self, visit: Visit, name: str, who: dict[str, Any], is_owner: bool) -> None:
        """`who`: the session, with the projects that the key may name."""
        self.visit, self.t, self.name, self.is_owner = visit, visit.t, name, is_owner
        own = who.get("project_id")
        self.projects = {each["id"]: each["name"] for each in who.get("projects", []) if each["id"] != own}
        self.permissions = f"/v1/fine_tuning/checkpoints/{quote(name, safe=':')}/permissions"

    async def draw(self) -> None:
        t = self.t
        with blocks.panel(t("models.aliases")):
            ui.label(t("models.aliases_text")).classes("muted")
            columns = [Column(t("models.alias"), wide=True), Column(t("audit.when")), Column(t("action.actions"))]
            self.aliases = Table(t("models.aliases"), columns)
            with ui.element("div").classes("fields"):
                self.alias = ui.input(t("models.alias")).props("outlined dense maxlength=256")
                blocks.button(t("models.add_alias"), self.add_alias)
        await self.show_aliases()
        if not self.is_owner:
            return
        with blocks.panel(t("models.shared")):
            ui.label(t("models.shared_text")).classes("muted")
            columns = [Column(t("nav.project"), wide=True), Column(t("audit.when")), Column(t("action.actions"))]
            self.shared = Table(t("models.shared"), columns)
            with ui.element("div").classes("fields"):
                self.project = ui.select(self.projects, label=t("nav.project"), with_input=True)
                self.project.props("outlined dense options-dense")
                blocks.button(t("models.share"), self.share)
            if not self.projects:
                ui.label(t("models.no_other_project")).classes("muted small")
        await self.show_shared()

    # ---- names
    async def show_aliases(self) -> None:
        found = await self.visit.ask(self.visit.connection.get("/tunery/v1/aliases"))
        if isinstance(found, Failure):
            return
        own = [alias for alias in found["data"] if alias["target"] == self.name]
        rows = [
            Row(
                alias["name"],
                [html.code(alias["name"]), html.when(alias["updated_at"], self.t)],
                actions=lambda name=alias["name"]: self._remove_button(name),
            )
            for alias in own
        ]
        self.aliases.update(rows)

    def _remove_button(self, alias: str) -> None:
        async def remove() -> None:
            path = f"/tunery/v1/aliases?name={quote(alias, safe='')}"
            if await self.visit.attempt(self.visit.connection.delete(path), done=self.t("action.deleted")):
                await self.show_aliases()

        t = self.t
        blocks.danger_button(
            t, t("action.remove"), remove, title=t("models.alias_title"), text=t("models.alias_text", name=alias)
        )

    async def add_alias(self) -> None:
        name = (self.alias.value or "").strip()
        if not name:
            notify(self.t("models.no_alias"), bad=True)
            return
        body = {"name": name, "target": self.name}
        if await self.visit.attempt(
            self.visit.connection.post("/tunery/v1/aliases", body), done=self.t("action.saved")
        ):
            self.alias.value = ""
            await self.show_aliases()

    # ---- projects
    async def show_shared(self) -> None:
        page = await self.visit.ask(self.visit.connection.get(self.permissions, limit=MAX_SHARED))
        if isinstance(page, Failure):
            return
        rows = [
            Row(
                each["id"],
                [self.projects.get(each["project_id"], each["project_id"]), html.when(each["created_at"], self.t)],
                actions=lambda permission=each["id"]: self._take_back_button(permission),
            )
            for each in page["data"]
        ]
        self.shared.update(rows)

    def _take_back_button(self, permission: str) -> None:
        async def take_back() -> None:
            path = f"{self.permissions}/{permission}"
            if await self.visit.attempt(self.visit.connection.delete(path), done=self.t("action.deleted")):
                await self.show_shared()

        t = self.t
        title, text = t("models.take_back_title"), t("models.take_back_text")
        blocks.danger_button(t, t("models.take_back"), take_back, title=title, text=text)

    async def share(self) -> None:
        if not self.project.value:
            notify(self.t("models.no_project"), bad=True)
            return
        body = {"project_ids": [self.project.value]}
        if await self.visit.attempt(self.visit.connection.post(self.permissions, body), done=self.t("action.saved")):
            await self.show_shared()
