"""API keys of the project: made for a service account, shown once, revoked at once."""

from typing import Any

from nicegui import ui
from openai.types.admin.organization.projects import ProjectAPIKey

from tunery.dashboard.components import blocks, code, html
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import Visit

PAGE = 100  # of keys in one request; all are fetched


async def build(visit: Visit) -> None:
    who = await visit.connection.get("/tunery/v1/session")
    page = KeysPage(visit, str(who["project_id"]))
    keys = await page.fetch()
    blocks.heading(visit.t("keys.title"), visit.t("keys.subtitle"))
    page.draw(keys)


class KeysPage:
    def __init__(self, visit: Visit, project_id: str) -> None:
        self.visit, self.t, self.project_id = visit, visit.t, project_id
        self.projects = visit.connection.client.admin.organization.projects

    async def fetch(self) -> list[ProjectAPIKey]:
        return [key async for key in self.projects.api_keys.list(self.project_id, limit=PAGE)]

    def draw(self, keys: list[ProjectAPIKey]) -> None:
        with blocks.panel(self.t("keys.new")), ui.element("div").classes("fields"):
            self.name = ui.input(self.t("keys.name"), placeholder=self.t("keys.name_hint")).props("outlined dense")
            blocks.button(self.t("keys.create"), self.create, primary=True, symbol="add")
        columns = [
            Column(self.t("keys.name"), wide=True),
            Column(self.t("keys.key")),
            Column(self.t("keys.owner")),
            Column(self.t("jobs.created")),
            Column(self.t("keys.last_used")),
            Column(self.t("action.actions"), numeric=True),
        ]
        self.table = Table(self.t("keys.title"), columns, [self.row(key) for key in keys])

    def row(self, key: ProjectAPIKey) -> Row:
        owner = key.owner.service_account or key.owner.user
        return Row(
            key.id,
            [
                key.name or html.DASH,
                html.code(key.redacted_value),
                owner.name if owner else html.DASH,
                html.when(key.created_at, self.t),
                html.when(key.last_used_at, self.t) if key.last_used_at else self.t("keys.never"),
            ],
            actions=lambda: self.revoke_button(key),
        )

    def revoke_button(self, key: ProjectAPIKey) -> None:
        blocks.danger_button(
            self.t,
            self.t("keys.revoke"),
            lambda: self.change(self.projects.api_keys.delete(key.id, project_id=self.project_id)),
            title=self.t("keys.revoke_title", name=key.name or key.redacted_value),
            text=self.t("keys.revoke_text"),
        )

    async def create(self) -> None:
        name = (self.name.value or "").strip()
        if not name:
            ui.notify(self.t("keys.name_missing"), type="warning")
            return
        made = await self.visit.result_of(self.projects.service_accounts.create(self.project_id, name=name))
        if isinstance(made, Failure) or made.api_key is None:
            return
        self.name.value = ""
        code.show_once(self.t, self.t("keys.made"), self.t("keys.once"), made.api_key.value)
        await self.refresh()

    async def change(self, call: Any) -> None:
        if await self.visit.attempt(call, done=self.t("keys.revoked")):
            await self.refresh()

    async def refresh(self) -> None:
        self.table.update([self.row(key) for key in await self.fetch()])
