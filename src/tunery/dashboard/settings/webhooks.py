"""Webhook endpoints of the project, what was delivered to them, and sending again."""

import itertools
from typing import Any

from nicegui import ui

from tunery.dashboard.components import blocks, code, html
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import Visit

TYPES_PATH = "/v1/webhook_event_types"
TEST = "fine_tuning.job.succeeded"  # what a test is about
PAGE = 100  # of endpoints in one request; all are fetched
MAX_DELIVERIES = 50


async def build(visit: Visit) -> None:
    page = WebhooksPage(visit)
    await page.load()
    blocks.heading(visit.t("webhooks.title"), visit.t("webhooks.subtitle"))
    page.draw()


class WebhooksPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.webhooks = visit.connection.client.webhooks
        self.types: list[str] = []  # the events that happen here
        self.endpoints: list[Any] = []
        self.deliveries: list[dict[str, Any]] = []

    async def load(self) -> None:
        self.types = self.types or (await self.visit.connection.get(TYPES_PATH))["data"]
        self.endpoints = [endpoint async for endpoint in self.webhooks.list(limit=PAGE)]
        answers = [await self.deliveries_of(endpoint.id) for endpoint in self.endpoints]
        newest = sorted(itertools.chain(*answers), key=lambda item: item["created_at"], reverse=True)
        self.deliveries = newest[:MAX_DELIVERIES]

    async def deliveries_of(self, endpoint_id: str) -> list[dict[str, Any]]:
        path = f"/tunery/v1/webhook_endpoints/{endpoint_id}/deliveries"
        return (await self.visit.connection.get(path, limit=MAX_DELIVERIES))["data"]

    def draw(self) -> None:
        with blocks.panel(self.t("webhooks.new")):
            with ui.element("div").classes("fields"):
                self.name = ui.input(self.t("webhooks.name")).props("outlined dense")
                self.url = ui.input(self.t("webhooks.url"), placeholder="https://", on_change=self.judge)
                self.url.props("outlined dense debounce=400 maxlength=2048")
                names = {name: self._event(name) for name in self.types}
                self.chosen = ui.select(names, value=self.types, multiple=True, label=self.t("webhooks.events"))
                self.chosen.props("outlined dense options-dense")
            self.judgement = ui.element("div").props("aria-live=polite")
            blocks.button(self.t("webhooks.create"), self.create, primary=True, symbol="add")
        self.area = ui.element("div").classes("stack")
        self.draw_lists()

    def draw_lists(self) -> None:
        self.area.clear()
        with self.area:
            if not self.endpoints:
                blocks.empty("webhook", self.t("webhooks.empty"), self.t("webhooks.empty_text"))
                return
            columns = [
                Column(self.t("webhooks.name"), wide=True),
                Column(self.t("webhooks.events")),
                Column(self.t("jobs.created")),
                Column(self.t("action.actions"), numeric=True),
            ]
            Table(self.t("webhooks.title"), columns, [self.endpoint_row(item) for item in self.endpoints])
            self.draw_deliveries()

    def draw_deliveries(self) -> None:
        blocks.show_heading(self.t("webhooks.deliveries"))
        if not self.deliveries:
            ui.label(self.t("webhooks.no_deliveries")).classes("muted")
            return
        columns = [
            Column(self.t("jobs.status")),
            Column(self.t("webhooks.event")),
            Column(self.t("webhooks.attempts"), numeric=True),
            Column(self.t("webhooks.answer"), wide=True),
            Column(self.t("webhooks.latency"), numeric=True),
            Column(self.t("audit.when")),
            Column(self.t("action.actions"), numeric=True),
        ]
        Table(self.t("webhooks.deliveries"), columns, [self.delivery_row(item) for item in self.deliveries])
        if len(self.deliveries) == MAX_DELIVERIES:
            ui.label(self.t("webhooks.newest", n=MAX_DELIVERIES)).classes("muted small")

    def _event(self, name: str) -> str:
        return self.t.named("event_type", name)

    def endpoint_row(self, endpoint: Any) -> Row:
        title = html.two_lines(endpoint.name, endpoint.url)
        events = ", ".join(self._event(name) for name in endpoint.event_types)
        return Row(
            endpoint.id,
            [title, events, html.when(endpoint.created_at, self.t)],
            actions=lambda: self.endpoint_actions(endpoint),
        )

    def endpoint_actions(self, endpoint: Any) -> None:
        def test() -> Any:
            return self.change(self.webhooks.test(endpoint.id, event_type=TEST), "webhooks.tested")

        with ui.element("div").classes("buttons end"):
            blocks.button(self.t("webhooks.test"), test)
            blocks.button(self.t("webhooks.rotate"), lambda: self.rotate(endpoint.id))
            blocks.danger_button(
                self.t,
                self.t("action.delete"),
                lambda: self.change(self.webhooks.delete(endpoint.id), "action.deleted"),
                title=self.t("webhooks.delete_title", name=endpoint.name),
                text=self.t("webhooks.delete_text"),
            )

    def delivery_row(self, delivery: dict[str, Any]) -> Row:
        code_or_error = delivery["status_code"] or self.t.word(delivery, "error") or html.DASH
        good = delivery["status_code"] is not None and 200 <= delivery["status_code"] < 300
        path = f"/tunery/v1/webhook_deliveries/{delivery['webhook_id']}/resend"
        names = {endpoint.id: endpoint.name for endpoint in self.endpoints}
        return Row(
            delivery["id"],
            [
                html.status_chip("delivered" if good else "failed", self.t),
                html.two_lines(
                    names.get(delivery["webhook_endpoint_id"], html.DASH), html.unbroken(delivery["webhook_id"])
                ),
                html.number(delivery["attempt"]),
                str(code_or_error),
                f"{delivery['latency_ms']:,} ms",
                html.when(delivery["created_at"], self.t),
            ],
            actions=lambda: self.resend_button(path),
        )

    def resend_button(self, path: str) -> None:
        blocks.button(
            self.t("webhooks.resend"), lambda: self.change(self.visit.connection.post(path), "webhooks.resent")
        )

    async def judge(self) -> None:
        """What the server says of the address as it stands there, while it is entered."""
        url = (self.url.value or "").strip()
        problem, kind = await self.problem_of(url) if url else ("", "")
        if url != (self.url.value or "").strip():
            return  # more was typed meanwhile, and that is being judged
        self.judgement.clear()
        if problem:
            with self.judgement:
                blocks.note(problem, kind=kind)

    async def problem_of(self, url: str) -> tuple[str, str]:
        """What is wrong with an address, and how bad that is: with some no endpoint can be made."""
        judged = await self.visit.ask(self.visit.connection.post("/tunery/v1/webhook_addresses", {"url": url}))
        if isinstance(judged, Failure):
            return judged.message(self.t), "bad"
        return self.t.word(judged, "problem"), "bad" if judged["refused"] else "warn"

    async def create(self) -> None:
        name, url = (self.name.value or "").strip() or "webhook", (self.url.value or "").strip()
        made = await self.visit.result_of(self.webhooks.create(name=name, url=url, event_types=self.chosen.value))
        if not isinstance(made, Failure):
            self.name.value = self.url.value = ""
            self.show_secret(made.signing_secret)
            await self.refresh()

    async def rotate(self, endpoint_id: str) -> None:
        rotating = self.webhooks.rotate_secret(endpoint_id, keep_old_secret_active_for_24_hours=True)
        made = await self.visit.result_of(rotating)
        if not isinstance(made, Failure):
            self.show_secret(made.signing_secret)

    def show_secret(self, secret: str) -> None:
        code.show_once(self.t, self.t("webhooks.secret"), self.t("webhooks.secret_text"), secret)

    async def change(self, call: Any, done: str) -> None:
        await self.visit.attempt(call, done=self.t(done))
        await self.refresh()

    async def refresh(self) -> None:
        await self.load()
        self.draw_lists()
