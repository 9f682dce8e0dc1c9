"""Bases of this server: what each needs and what stands on it; an owner adds one from the hub, and removes it."""

import asyncio
from functools import partial
from typing import Any

from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import Visit, notify
from tunery.dashboard.weights.exports import progress
from tunery.texts.amounts import size

PATH = "/tunery/v1/bases"
ADDITIONS = "/tunery/v1/organization/base_additions"
OWN = "/tunery/v1/organization/bases"
MAX_SHOWN = 20  # of what was added lately
STATES = {
    "cold": "bases.state.cold",
    "waiting": "bases.state.waiting",
    "fetching": "bases.state.fetching",
    "starting": "bases.state.starting",
    "warm": "bases.state.warm",
    "leaving": "bases.state.leaving",
    "failed": "bases.state.failed",
}
Json = dict[str, Any]


async def build(visit: Visit) -> None:
    page = BasesPage(visit)
    await page.load()
    blocks.heading(visit.t("bases.title"), visit.t("bases.subtitle"))
    page.draw()


class BasesPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.bases: list[Json] = []
        self.additions: list[Json] = []

    async def load(self) -> None:
        get = self.visit.connection.get
        bases, additions = await asyncio.gather(get(PATH), get(ADDITIONS, limit=MAX_SHOWN))
        self.bases, self.additions = bases["data"], additions["data"]

    def draw(self) -> None:
        t = self.t
        with blocks.panel(t("bases.add")):
            ui.label(t("bases.add_text")).classes("muted small")
            with ui.element("div").classes("fields"):
                self.source = ui.input(t("bases.source"), placeholder="hf:Qwen/Qwen3-0.6B").props("outlined dense")
                self.name = ui.input(t("bases.name"), placeholder="gpt-4o-mini-2024-07-18").props("outlined dense")
                self.licence = ui.input(t("bases.licence"), placeholder=t("bases.licence_hint")).props("outlined dense")
            blocks.button(t("bases.add"), self.add, primary=True, symbol="add")
        with blocks.panel(t("bases.additions")) as self.panel:
            columns = [Column(t("jobs.status"), wide=True), Column(t("bases.name")), Column(t("bases.source"))]
            self.added = Table(t("bases.additions"), [*columns, Column(t("jobs.created"))])
        columns = [
            Column(t("bases.name"), wide=True),
            Column(t("bases.weights")),
            Column(t("bases.state")),
            Column(t("bases.memory")),
            Column(t("bases.on_disk"), numeric=True),
            Column(t("bases.used_by")),
            Column(t("action.actions"), numeric=True),
        ]
        self.table = Table(t("bases.title"), columns)
        self.show()
        self.poll = Poll(self.refresh)
        if not self.is_moving:
            self.poll.stop()

    @property
    def is_moving(self) -> bool:
        moving = {base["state"] for base in self.bases} & {"waiting", "fetching", "starting", "leaving"}
        return bool(moving) or any(each["status"] in ("queued", "running") for each in self.additions)

    def show(self) -> None:
        self.panel.visible = bool(self.additions)
        self.added.update([self.addition_row(each) for each in self.additions])
        self.table.update([self.row(base) for base in self.bases])

    async def refresh(self) -> bool:
        """Whether to look again."""
        if isinstance(await self.visit.ask(self.load()), Failure):
            return True
        self.show()
        return self.is_moving

    def addition_row(self, each: Json) -> Row:
        state = html.two_lines(html.status_chip(each["status"], self.t), progress(each, self.t))
        when = html.when(each["created_at"], self.t)
        return Row(each["id"], [state, html.model_name(each["name"]), html.unbroken(each["source"]), when])

    def row(self, base: Json) -> Row:
        t = self.t
        about = [base["licence"], ", ".join(base["languages"])]
        memory = html.DASH
        if base["training_bytes"] is not None:
            needs = {name: size(base[f"{name}_bytes"]) for name in ("training", "serving")}
            memory = html.two_lines(
                t("bases.to_train", size=needs["training"]), t("bases.to_serve", size=needs["serving"])
            )
        numbers = {"bases.models": base["num_models"], "bases.jobs": base["num_jobs"]}
        used = [t(key, n=number) for key, number in numbers.items() if number]
        cells = [
            html.two_lines(html.model_name(base["name"]), ", ".join(base["aliases"])),
            html.two_lines(html.model_name(base["source"]), " · ".join(filter(None, about))),
            t(STATES[base["state"]]) if base["state"] else html.DASH,
            memory,
            size(base["bytes"]) if base["bytes"] is not None else html.DASH,
            ", ".join(used) or html.DASH,
        ]
        return Row(base["name"], cells, actions=partial(self.actions, base) if base["own"] else None)

    def actions(self, base: Json) -> None:
        blocks.danger_button(
            self.t,
            self.t("bases.remove"),
            partial(self.remove, base["name"]),
            title=self.t("bases.remove_title", name=base["name"]),
            text=self.t("bases.remove_text"),
        )

    async def remove(self, name: str) -> None:
        if await self.visit.attempt(self.visit.connection.delete(f"{OWN}/{name}"), done=self.t("bases.removed")):
            await self.refresh()

    async def add(self) -> None:
        source, name = (self.source.value or "").strip(), (self.name.value or "").strip()
        if not source or not name:
            notify(self.t("bases.nothing_named"), bad=True)
            return
        body = {"source": source, "name": name, "licence": (self.licence.value or "").strip() or None}
        asked = self.visit.connection.post(ADDITIONS, body)
        if await self.visit.attempt(asked, done=self.t("bases.begun")):
            self.source.value = self.name.value = self.licence.value = ""
            await self.refresh()
            self.poll.again()
