"""People of the organisation and their roles; invitations by mail."""

from typing import Any

from nicegui import ui
from openai.types.admin.organization import OrganizationUser

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.visit import Visit
from tunery.domain.tenants import Role

PAGE = 100  # of users in one request; all are fetched
ROLES = [role.value for role in Role]


async def build(visit: Visit) -> None:
    page = MembersPage(visit)
    users = await page.fetch()
    blocks.heading(visit.t("members.title"), visit.t("members.subtitle"))
    page.draw(users)


class MembersPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.organization = visit.connection.client.admin.organization

    async def fetch(self) -> list[OrganizationUser]:
        return [user async for user in self.organization.users.list(limit=PAGE)]

    def draw(self, users: list[OrganizationUser]) -> None:
        columns = [
            Column(self.t("members.name"), wide=True),
            Column(self.t("members.email")),
            Column(self.t("members.role")),
            Column(self.t("members.since")),
            Column(self.t("members.change_role")),
        ]
        self.table = Table(self.t("members.title"), columns, [self.row(user) for user in users])

    def row(self, user: OrganizationUser) -> Row:
        role = html.unbroken(self.t.named("role", str(user.role or "")))
        return Row(
            user.id,
            [user.name or html.DASH, user.email or html.DASH, role, html.when(user.added_at, self.t)],
            actions=lambda: self.actions(user),
        )

    def actions(self, user: OrganizationUser) -> None:
        choices = {role: self.t(f"role.{role}") for role in ROLES}
        current = user.role if user.role in choices else None
        select = ui.select(choices, value=current, on_change=lambda event: self.set_role(user, event.value))
        select.props("dense outlined options-dense").props(f'aria-label="{self.t("members.role")}"')

    async def set_role(self, user: OrganizationUser, role: str) -> None:
        await self.change(self.organization.users.update(user.id, role=role))

    async def change(self, call: Any) -> None:
        await self.visit.attempt(call, done=self.t("action.saved"))
        self.table.update([self.row(user) for user in await self.fetch()])
