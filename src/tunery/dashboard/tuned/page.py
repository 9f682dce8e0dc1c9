"""The tuned models of the project: searched by the server, each with what stands under its name."""

from urllib.parse import quote

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import FIRST, weights_line
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.models import Model, list_models, playground_path
from tunery.dashboard.visit import BASE, Visit


def model_path(name: str) -> str:
    return f"{BASE}/models/{quote(name, safe='')}"


async def build(visit: Visit) -> None:
    t = visit.t
    first = await tuned(visit)
    blocks.heading(t("models.title"), t("models.subtitle"))
    if not first:
        action = html.button_link(f"{BASE}/jobs/new", t("jobs.create"), primary=True)
        blocks.empty("psychology", t("models.empty"), t("models.empty_text"), action=action)
        return
    ModelList(visit, first)


async def tuned(visit: Visit, search: str = "", limit: int = FIRST) -> list[Model]:
    """The newest first."""
    found = await list_models(visit.connection, search=search, limit=limit)
    return [model for model in found if model.kind == "fine-tuned"]


class ModelList:
    def __init__(self, visit: Visit, first: list[Model]) -> None:
        self.visit, self.t, self.limit = visit, visit.t, FIRST
        t = self.t
        with ui.element("div").classes("fields"):
            self.search = ui.input(t("models.search"), on_change=self.refilter)
            self.search.props("outlined dense clearable debounce=300 type=search maxlength=200")
        columns = [
            Column(t("jobs.model"), wide=True),
            Column(t("models.base")),
            Column(t("models.price"), numeric=True),
            Column(t("jobs.created")),
            Column(t("action.open")),
        ]
        self.table = Table(t("models.title"), columns)
        self.nothing = ui.label(t("models.none")).classes("muted").props("aria-live=polite")
        self.more = blocks.button(t("action.more"), self.load_more)
        self.show(first)

    def show(self, models: list[Model]) -> None:
        self.table.update([Row(model.name, self.cells(model)) for model in models])
        self.nothing.visible = not models
        self.more.visible = len(models) == self.limit

    def cells(self, model: Model) -> list[str | Markup]:
        t, price = self.t, model.price
        link = html.link(model_path(model.name), html.model_name(model.display_name or model.name))
        names = [model.name] if model.display_name else []
        prices = html.DASH
        if price is not None:
            prices = " / ".join(html.money(price[name], model.currency) for name in ("input", "output"))
        return [
            html.two_lines(link, Markup("<br>").join(html.model_name(name) for name in (*names, *model.aliases))),
            weights_line(model, t),
            prices,
            html.when(model.created_at, t),
            html.link(playground_path(model.base, model.name), t("job.play")),
        ]

    async def refilter(self) -> None:
        self.limit = FIRST
        await self.load()

    async def load_more(self) -> None:
        self.limit += FIRST
        await self.load()

    async def load(self) -> None:
        found = await self.visit.result_of(tuned(self.visit, self.search.value or "", self.limit))
        if not isinstance(found, Failure):
            self.show(found)
