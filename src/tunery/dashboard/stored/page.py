"""Stored completions and responses, the newest first: counted, filtered by the server, ticked and made a dataset of."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, code, html
from tunery.dashboard.components.chart import COLORS, bars
from tunery.dashboard.components.choices import NOTHING, Known, known_models, with_weights
from tunery.dashboard.components.poll import LEAST_S
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.models import list_models
from tunery.dashboard.stored.parts import (
    APIS,
    DAY_S,
    DRAFT,
    FILTERS,
    PATH,
    address,
    as_query,
    filters_of,
    state_cell,
)
from tunery.dashboard.visit import BASE, Visit

PAGE = 25
DAYS = 30  # of the chart
QUESTION = [{"role": "user", "content": "Where is my parcel?"}]

Counts = list[dict[str, Any]]


async def build(visit: Visit) -> None:
    t, connection = visit.t, visit.connection
    counts = (await connection.get(f"{PATH}/counts"))["data"]
    if not counts:
        blocks.heading(t("stored.title"), t("stored.subtitle"))
        blocks.empty("history", t("stored.empty"), t("stored.empty_text"))
        model = next(iter(await list_models(connection, limit=1)))
        with blocks.panel(t("stored.how")):
            code.both_apis(t, connection.address, model.name, QUESTION, store=True, metadata={"task": "support"})
        return
    page = StoredPage(visit, counts)
    with ui.element("div").classes("heading"):
        blocks.show_title(t("stored.title"), t("stored.subtitle"))
        with ui.element("div").classes("buttons"):
            page.make = blocks.button(t("stored.make"), page.make_dataset, primary=True, symbol="playlist_add_check")
    page.draw()
    await page.load()


class StoredPage:
    make: ui.button

    def __init__(self, visit: Visit, counts: Counts) -> None:
        self.visit, self.t, self.counts = visit, visit.t, counts
        self.known: Known = NOTHING
        self.fields: dict[str, Any] = {}
        self.shown: dict[str, dict[str, Any]] = {}
        self.ticked: dict[str, None] = {}  # in the order in which they were
        self.next: str | None = None
        self.asked_at, self.num_changes = 0.0, 0

    def draw(self) -> None:
        t = self.t
        self.summary = ui.element("div").classes("columns")
        self._draw_fields()
        columns = [
            Column(t("stored.question"), wide=True),
            Column(t("jobs.model")),
            Column(t("jobs.status")),
            Column(t("stored.tokens"), numeric=True),
            Column(t("job.cost"), numeric=True),
            Column(t("audit.when")),
            Column(t("action.actions"), numeric=True),
        ]
        self.table = Table(t("stored.title"), columns)
        self.told = ui.label("").classes("muted").props("aria-live=polite")
        self.more = blocks.button(t("action.more"), self.load_more)

    def _draw_fields(self) -> None:
        t, given = self.t, filters_of(self.visit)
        models = Counter[str]()
        for count in self.counts:
            models[count["model"]] += count["num_answers"]
        choices = {
            "api": {"": t("jobs.all"), **APIS},
            "model": {"": t("jobs.all"), **{name: f"{name} ({n:,})" for name, n in models.most_common()}},
        }
        with ui.element("div").classes("fields"):
            for name in FILTERS:
                label, value = t(f"stored.{name}"), given.get(name, "")
                if options := choices.get(name):
                    value = value if value in options else ""
                    field = ui.select(options, value=value, label=label, with_input=name == "model")
                    field.props("outlined dense options-dense")
                else:
                    kind = {"since": "date", "until": "date", "search": "search"}.get(name, "text")
                    field = ui.input(label, value=value)
                    field.props(f"outlined dense clearable type={kind} debounce=300 maxlength=200")
                    if kind == "date":
                        field.props("stack-label")
                self.fields[name] = field.on_value_change(self.refilter)

    @property
    def filters(self) -> dict[str, str]:
        return {name: str(field.value).strip() for name, field in self.fields.items() if field.value}

    async def refilter(self) -> None:
        """What stands in the fields a second after the last request: quick changes are asked for once."""
        self.num_changes += 1
        change = self.num_changes
        await asyncio.sleep(max(0.0, self.asked_at + LEAST_S - time.monotonic()))
        if change == self.num_changes:
            ui.navigate.history.replace(address(self.filters))
            await self.visit.attempt(self.load())

    async def load(self) -> None:
        """The first page of what the fields say. Raises what the server answers in its place."""
        self.asked_at, change = time.monotonic(), self.num_changes
        counted = {name: value for name, value in as_query(self.filters).items() if name != "search"}
        counts = await self.visit.connection.get(f"{PATH}/counts", **counted)
        page = await self.fetch(after=None)
        if change != self.num_changes:
            return  # a slow search: the fields say something else by now
        self.counts, self.shown, self.ticked = counts["data"], {}, {}
        self.draw_summary()
        self.show(page)

    async def fetch(self, after: str | None) -> dict[str, Any]:
        page = await self.visit.connection.get(PATH, **as_query(self.filters), after=after, limit=PAGE)
        self.known = await known_models(self.visit, [answer["model"] for answer in page["data"]], self.known)
        return page

    async def load_more(self) -> None:
        page = await self.visit.result_of(self.fetch(self.next))
        if not isinstance(page, Failure):
            self.show(page)

    def show(self, page: dict[str, Any]) -> None:
        """A page more, or the first one."""
        is_first = not self.shown
        new = {answer["id"]: answer for answer in page["data"]}
        self.shown |= new
        rows = [self.row(answer) for answer in new.values()]
        self.table.update(rows) if is_first else self.table.extend(rows)
        self.next, self.more.visible = page["next"], page["has_more"]
        told = "" if self.shown else self.t("stored.none")
        if self.filters.get("search") and page["has_more"] and len(new) < PAGE:
            told = self.t("stored.searched", n=f"{page['num_searched']:,}")
        self.told.text, self.told.visible = told, bool(told)
        self.show_ticked()

    def row(self, answer: dict[str, Any]) -> Row:
        t, usage = self.t, answer["usage"]
        question = answer["asked"] or t("stored.nothing_asked")
        title = html.link(f"{BASE}/stored/{answer['id']}", Markup('<span class="clamp">{}</span>').format(question))
        tokens = html.DASH if usage is None else f"{usage['input_tokens']:,} + {usage['output_tokens']:,}"
        return Row(
            answer["id"],
            [
                html.two_lines(title, Markup('<span class="clamp">{}</span>').format(answer["answered"])),
                with_weights(answer["model"], self.known, t),
                html.two_lines(
                    state_cell(answer, t), Markup('<span class="whole">{}</span>').format(APIS[answer["api"]])
                ),
                tokens,
                html.money(answer["cost"], answer["currency"]),
                html.when(answer["created_at"], t),
            ],
            actions=lambda: self.actions(answer["id"]),
        )

    def actions(self, answer_id: str) -> None:
        def tick(is_on: bool) -> None:
            self.ticked.pop(answer_id, None)
            if is_on:
                self.ticked[answer_id] = None
            self.show_ticked()

        box = ui.checkbox(on_change=lambda event: tick(bool(event.value)))
        box.props["aria-label"] = self.t("stored.choose", name=answer_id)
        delete_button(self.visit, self.shown[answer_id], self.refilter)

    def show_ticked(self) -> None:
        self.make.set_enabled(bool(self.shown))
        text = self.t("stored.make_ticked", n=len(self.ticked)) if self.ticked else self.t("stored.make")
        self.make.text = text

    def make_dataset(self) -> None:
        self.visit.save_draft(DRAFT, {"filters": self.filters, "ids": list(self.ticked) or None})
        ui.navigate.to("/stored/dataset")

    def draw_summary(self) -> None:
        t, models = self.t, Counter[str]()
        for count in self.counts:
            models[count["model"]] += count["num_answers"]
        self.summary.clear()
        if not models:
            return
        with self.summary:
            with blocks.panel(t("stored.by_day")):
                bars(t, t("stored.by_day"), *_by_day(self.counts, models, t("stored.others")))
            with blocks.panel(t("stored.by_model")):
                columns = [Column(t("jobs.model"), wide=True), Column(t("stored.answers"), numeric=True)]
                rows = [Row(name, [html.model_name(name), html.number(n)]) for name, n in models.most_common()]
                Table(t("stored.by_model"), columns, rows, narrow="table")


def _by_day(counts: Counts, models: Counter[str], others: str) -> tuple[list[str], dict[str, list[float]]]:
    """Days up to the last with an answer, a stack a model: the most used ones have a colour of their own."""
    last = max(count["day"] for count in counts)
    first = max(min(count["day"] for count in counts), last - (DAYS - 1) * DAY_S)
    days = range(first, last + 1, DAY_S)
    own = [name for name, _ in models.most_common(len(COLORS) - 1)]
    stacks: dict[str, list[float]] = {name: [0.0] * len(days) for name in own}
    for count in counts:
        if count["day"] in days:
            stack = stacks.setdefault(count["model"] if count["model"] in own else others, [0.0] * len(days))
            stack[days.index(count["day"])] += count["num_answers"]
    return [datetime.fromtimestamp(day, UTC).strftime("%m-%d") for day in days], stacks


def delete_button(visit: Visit, answer: dict[str, Any], done: Any) -> None:
    client, t = visit.connection.client, visit.t
    of_api = client.responses if answer["api"] == "responses" else client.chat.completions

    async def delete() -> None:
        if await visit.attempt(of_api.delete(answer["id"]), done=t("action.deleted")):
            await done()

    blocks.danger_button(t, t("action.delete"), delete, title=t("stored.delete_title"), text=t("stored.delete_text"))
