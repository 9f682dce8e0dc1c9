"""What the project may use: requests and tokens a minute, jobs, storage, a monthly budget."""

from typing import Any

from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.visit import Visit
from tunery.texts.amounts import size

MICRO = 1_000_000
MB = 1_000_000
# name -> how many of the API's units one unit of the field is
FIELDS = {
    "requests_per_minute": 1,
    "tokens_per_minute": 1,
    "max_running_jobs": 1,
    "max_jobs_per_day": 1,
    "max_storage_bytes": MB,
    "monthly_budget": MICRO,
    "warning_percent": 1,
}


async def build(visit: Visit) -> None:
    who = await visit.connection.get("/tunery/v1/session")
    page = LimitsPage(visit, f"/tunery/v1/organization/projects/{who['project_id']}/limits")
    await page.load()
    blocks.heading(visit.t("limits.title"), visit.t("limits.subtitle"))
    page.draw()


class LimitsPage:
    def __init__(self, visit: Visit, path: str) -> None:
        self.visit, self.t, self.path = visit, visit.t, path
        self.limits: dict[str, Any] = {}

    async def load(self) -> None:
        self.limits = await self.visit.connection.get(self.path)

    def draw(self) -> None:
        self.tiles = html.show("").classes("tiles")
        with blocks.panel(self.t("limits.own")):
            ui.label(self.t("limits.own_text")).classes("muted small")
            with ui.element("div").classes("fields"):
                self.fields = {name: self.field(name) for name in FIELDS}
            blocks.button(self.t("action.save"), self.save, primary=True).classes("start")
        self.show()

    def field(self, name: str) -> ui.number:
        value = self.limits["own"][name]
        shown = None if value is None else value / FIELDS[name]
        label = self.t(f"limits.{name}", currency=self.limits["currency"].upper())
        field = ui.number(label, value=shown, min=0, placeholder=self.fallback(name))
        return field.props("outlined dense clearable stack-label")

    def fallback(self, name: str) -> str:
        """What holds when the field is empty."""
        value = self.limits["effective"][name]
        return html.number(value / FIELDS[name]) if value else self.t("limits.unlimited")

    def show(self) -> None:
        budget, spent = self.limits["effective"]["monthly_budget"], self.limits["spent_this_month"] / MICRO
        currency = self.limits["currency"]
        left = html.money(max(0, budget / MICRO - spent), currency) if budget else self.t("limits.unlimited")
        self.tiles.set_content(
            html.tiles_markup(
                [
                    (self.t("limits.spent"), html.money(spent, currency), self.t("limits.since_first")),
                    (self.t("limits.left"), left, ""),
                    (self.t("limits.stored"), size(self.limits["stored"]["total"]), self.storage()),
                ]
            )
        )

    def storage(self) -> str:
        limit = self.limits["effective"]["max_storage_bytes"]
        return self.t("limits.stored_of", limit=html.number(limit / MB)) if limit else self.t("limits.unlimited")

    async def save(self) -> None:
        values = {
            name: None if field.value is None else round(field.value * FIELDS[name])
            for name, field in self.fields.items()
        }
        if await self.visit.attempt(self.visit.connection.post(self.path, values), done=self.t("action.saved")):
            await self.load()
            self.show()
