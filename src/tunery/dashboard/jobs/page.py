"""The list of fine-tuning jobs: searched and filtered by the server, live without reloading."""

from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.start import first_steps
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.jobs.overlay import MAX_RUNS, overlay_path
from tunery.dashboard.jobs.words import tag_line
from tunery.dashboard.visit import BASE, Visit
from tunery.domain.jobs import TERMINAL, JobStatus
from tunery.texts import Translator

PAGE = 50
POLL_S = 2.0


async def build(visit: Visit) -> None:
    first = await visit.connection.get("/tunery/v1/jobs", limit=PAGE)
    create = html.button_link(f"{BASE}/jobs/new", visit.t("jobs.create"), primary=True, symbol="add")
    blocks.heading(visit.t("jobs.title"), visit.t("jobs.subtitle"), actions=create)
    if not first["data"]:
        first_steps(visit.t)
        return
    JobList(visit, first)


class JobList:
    def __init__(self, visit: Visit, first: dict[str, Any]) -> None:
        self.visit, self.t = visit, visit.t
        self.shown: list[dict[str, Any]] = first["data"]
        with ui.element("div").classes("fields"):
            self.search = ui.input(self.t("jobs.search"), on_change=self.refilter)
            self.search.props("outlined dense clearable debounce=300 type=search")
            choices = {"": self.t("jobs.all")} | {s.value: self.t(f"status.{s.value}") for s in JobStatus}
            self.status = ui.select(choices, value="", label=self.t("jobs.status"), on_change=self.refilter)
            self.status.props("outlined dense")
            self.beside = blocks.button(self.t("jobs.overlay"), self.overlay, symbol="show_chart")
        columns = [
            Column(self.t("jobs.status")),
            Column(self.t("jobs.model"), wide=True),
            Column(self.t("jobs.base")),
            Column(self.t("job.progress")),
            Column(self.t("job.cost"), numeric=True),
            Column(self.t("jobs.created")),
            Column(self.t("jobs.choose")),
        ]
        self.ticked: dict[str, None] = {}  # in the order in which they were
        self.show_ticked()
        self.table = Table(self.t("jobs.title"), columns, self.rows(), narrow="two-lines")
        self.nothing = ui.label(self.t("jobs.none")).classes("muted")
        self.nothing.visible = False
        self.more = blocks.button(self.t("action.more"), self.load_more)
        self.more.visible = bool(first["has_more"])
        self.poll = Poll(self.refresh, every_s=POLL_S)
        if not may_change(self.shown):
            self.poll.stop()

    def rows(self) -> list[Row]:
        return [self.row(job) for job in self.shown]

    def row(self, job: dict[str, Any]) -> Row:
        return Row(job["id"], job_cells(self.visit, job), actions=lambda: self.tick_box(job))

    def tick_box(self, job: dict[str, Any]) -> None:
        def tick(is_on: bool) -> None:
            self.ticked.pop(job["id"], None)
            if is_on:
                self.ticked[job["id"]] = None
            self.show_ticked()

        box = ui.checkbox(value=job["id"] in self.ticked, on_change=lambda event: tick(bool(event.value)))
        box.props["aria-label"] = self.t("jobs.tick", name=job_names(job)[0])

    def show_ticked(self) -> None:
        self.beside.set_enabled(2 <= len(self.ticked) <= MAX_RUNS)

    def overlay(self) -> None:
        ui.navigate.to(overlay_path(*self.ticked))

    async def refilter(self) -> None:
        page = await self.fetch()
        if page is not None:
            self.shown = page["data"]
            self.table.update(self.rows())
            self.more.visible = page["has_more"]
            self.nothing.visible = not self.shown
            if may_change(self.shown):
                self.poll.again()

    async def load_more(self) -> None:
        page = await self.fetch(after=self.shown[-1]["id"])
        if page is not None:
            self.shown += page["data"]
            self.table.extend([self.row(job) for job in page["data"]])
            self.more.visible = page["has_more"]

    async def refresh(self) -> bool:
        """Only the newest page is asked for again: older jobs have ended. Looks on while one of them may change."""
        page = await self.fetch(quiet=True)
        if page is None:
            return True
        newest = {job["id"] for job in page["data"]}
        rest = [job for job in self.shown if job["id"] not in newest][: max(0, len(self.shown) - len(newest))]
        self.shown = page["data"] + (rest if len(self.shown) > PAGE else [])
        self.table.update(self.rows())
        return may_change(page["data"])

    async def fetch(self, *, after: str = "", quiet: bool = False) -> dict[str, Any] | None:
        wanted = {"after": after, "status": self.status.value, "search": self.search.value or ""}
        asked = self.visit.connection.get("/tunery/v1/jobs", limit=PAGE, **wanted)
        page = await (self.visit.ask(asked) if quiet else self.visit.result_of(asked))
        return None if isinstance(page, Failure) else page


def may_change(jobs: list[dict[str, Any]]) -> bool:
    return any(job["status"] not in TERMINAL for job in jobs)


def job_names(job: dict[str, Any]) -> list[str]:
    """What people call it first."""
    return list(dict.fromkeys(filter(None, [job["display_name"], job["fine_tuned_model"] or job["suffix"], job["id"]])))


def job_cells(visit: Visit, job: dict[str, Any]) -> list[str | Markup]:
    name, *others = job_names(job)
    title = Markup('<a href="{}" title="{}"><span class="full">{}</span><span class="short">{}</span></a>').format(
        f"{BASE}/jobs/{job['id']}", name, html.model_name(name), job["display_name"] or job["suffix"] or job["id"]
    )
    below = Markup('<span class="sub">{}</span>').format(Markup("<br>").join(map(html.model_name, others)))
    brief = Markup('<span class="brief">{} · <span>{}</span> · {}</span>').format(
        html.when(job["created_at"], visit.t), job["model"], _standing(job, visit.t)
    )
    title += below + tag_line(job["tags"]) + brief
    return [
        html.status_chip(job["status"], visit.t),
        title,
        html.two_lines(html.model_name(job["model"]), job["weights"]),
        html.progress(job["step"], job["total_steps"], visit.t) if job["status"] != "failed" else html.DASH,
        html.money(job["cost"], job["currency"]),
        html.when(job["created_at"], visit.t),
    ]


def _standing(job: dict[str, Any], t: Translator) -> str:
    """The loss, or before there is one how far the job is."""
    if job["loss"] is not None:
        return t("jobs.loss", loss=f"{job['loss']:.3f}")
    return f"{html.percent(job['step'], job['total_steps'])} %" if job["total_steps"] else html.DASH
