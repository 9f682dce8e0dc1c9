"""Several runs over each other in one chart, and below it what differs between them: data, hyperparameters, results."""

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.chart import COLORS, Curves
from tunery.dashboard.components.choices import FIRST, Choice, version_text
from tunery.dashboard.components.metrics import LOSSES, METRICS, metric_label
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import BASE, Visit
from tunery.domain.jobs import TERMINAL
from tunery.texts import Translator

MAX_RUNS = len(COLORS)
POINTS = 300
POLL_S = 2.0


def overlay_path(*job_ids: str) -> str:
    return f"/jobs/overlay?jobs={quote(','.join(job_ids), safe=',')}"


async def build(visit: Visit) -> None:
    t = visit.t
    blocks.heading(t("overlay.title"), t("overlay.subtitle"))
    page = Overlay(visit)
    wanted = [job_id for job_id in visit.query("jobs").split(",") if job_id]
    chosen = list(dict.fromkeys(wanted[:MAX_RUNS]))
    page.runs = dict(zip(chosen, await asyncio.gather(*map(page.fetch, chosen)), strict=True))
    await page.draw()


@dataclass(frozen=True)
class Run:
    """One job, as its page has it."""

    view: dict[str, Any]

    @property
    def detail(self) -> dict[str, Any]:
        return self.view["detail"]

    @property
    def name(self) -> str:
        detail = self.detail
        return detail["display_name"] or detail["fine_tuned_model"] or detail["suffix"] or detail["id"]

    @property
    def curves(self) -> dict[str, list[tuple[float, float]]]:
        return self.view["curves"]

    @property
    def is_over(self) -> bool:
        return self.detail["status"] in TERMINAL

    def properties(self, t: Translator) -> dict[str, str]:
        """What a run was made of and what it came to, by the name of each: the wording is the reader's."""
        detail, job = self.detail, self.view["job"]
        losses = {name: [value for _, value in self.curves[name]] for name in LOSSES}
        found = {
            t("jobs.base"): job["model"],
            t("overlay.weights"): detail["weights"],
            t("create.method"): t(f"method.{detail['method']}"),
            t("create.training"): self._file(job["training_file"], t),
            t("create.validation"): self._file(job["validation_file"], t),
            **{t(f"create.{name}"): html.number(value) for name, value in detail["hyperparameters"].items()},
            t("create.seed"): str(job["seed"]),
            **{f"{t('job.metadata')}: {key}": value for key, value in (detail["metadata"] or {}).items()},
            t("job.tags"): ", ".join(detail["tags"]),
            t("jobs.status"): t(f"status.{detail['status']}"),
            t("create.steps"): html.number(detail["total_steps"]),
            t("job.tokens"): html.number(detail["trained_tokens"]),
            t("job.time"): html.duration(detail["elapsed_s"], t),
            t("job.cost"): html.money(detail["cost"], detail["currency"]),
        }
        if losses["train_loss"]:
            found[t("overlay.last", metric=metric_label("train_loss", t))] = f"{losses['train_loss'][-1]:.4f}"
        for name in ("valid_loss", "full_valid_loss"):
            if losses[name]:
                found[t("overlay.lowest", metric=metric_label(name, t))] = f"{min(losses[name]):.4f}"
        return found

    def _file(self, file_id: str | None, t: Translator) -> str:
        """Name, version and id: two files often have one name."""
        if not file_id:
            return html.DASH
        file = self.view["files"][file_id]
        return " ".join(filter(None, [file["filename"], version_text(file, t), file_id]))


class Overlay:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.runs: dict[str, Run] = {}  # in the order of their colours

    async def fetch(self, job_id: str) -> Run:
        path = f"/tunery/v1/jobs/{quote(job_id, safe='')}/view"
        return Run(await self.visit.connection.get(path, points=POINTS, events=1))

    async def draw(self) -> None:
        t = self.t
        with blocks.panel():
            with ui.element("div").classes("fields"):
                labels = {name: metric_label(name, t) for name in METRICS}
                self.metric = ui.select(labels, value=METRICS[0], label=t("overlay.metric"), on_change=self.show)
                self.metric.props("outlined dense options-dense")
                self.adding = Choice(
                    self.visit,
                    t("overlay.add"),
                    self.find,
                    await self.find(""),
                    value=None,
                    on_change=self.add,
                )
            self.chart = Curves(t, t("overlay.title"), x_name=t("job.step"))
            self.told = ui.label("").classes("muted").props("aria-live=polite")
        with blocks.panel(t("overlay.differences")):
            self.differences = ui.element("div").classes("stack")
        self.show()
        self.poll = Poll(self.refresh, every_s=POLL_S)
        if all(run.is_over for run in self.runs.values()):
            self.poll.stop()

    async def find(self, text: str) -> dict[str, str]:
        """Jobs to add, by id."""
        page = await self.visit.connection.get("/tunery/v1/jobs", search=text, limit=FIRST)
        found = [job for job in page["data"] if job["id"] not in self.runs]
        names = ("display_name", "fine_tuned_model", "suffix")
        return {job["id"]: " · ".join(filter(None, [*(job[name] for name in names), job["id"]])) for job in found}

    async def add(self) -> None:
        job_id = self.adding.value
        if not job_id:
            return
        run = await self.visit.result_of(self.fetch(str(job_id)))
        if not isinstance(run, Failure) and len(self.runs) < MAX_RUNS:
            self.runs[str(job_id)] = run
            self.poll.again()
        await self.changed()

    async def remove(self, job_id: str) -> None:
        self.runs.pop(job_id, None)
        await self.changed()

    async def changed(self) -> None:
        """The address says what is shown: it can be sent to a colleague."""
        ui.navigate.history.replace(f"{BASE}{overlay_path(*self.runs)}")
        self.adding.set_value(None)
        self.adding.offer(await self.find(""))
        self.show()

    async def refresh(self) -> bool:
        for job_id, run in list(self.runs.items()):
            if run.is_over:
                continue
            newer = await self.visit.ask(self.fetch(job_id))
            if not isinstance(newer, Failure) and job_id in self.runs:
                self.runs[job_id] = newer
        self.show()
        return not all(run.is_over for run in self.runs.values())

    def names(self) -> dict[str, str]:
        """By id; of runs with one name the id tells them apart."""
        names = [run.name for run in self.runs.values()]
        return {
            job_id: run.name if names.count(run.name) == 1 else f"{run.name} ({job_id[-6:]})"
            for job_id, run in self.runs.items()
        }

    def show(self) -> None:
        names, metric = self.names(), str(self.metric.value)
        self.chart.update({names[job_id]: run.curves[metric] for job_id, run in self.runs.items()})
        self.adding.set_enabled(len(self.runs) < MAX_RUNS)
        missing = [names[job_id] for job_id, run in self.runs.items() if not run.curves[metric]]
        too_few = len(self.runs) < 2
        told = self.t("overlay.without", names=", ".join(missing)) if missing else ""
        self.told.text = self.t("overlay.too_few") if too_few else told
        self._show_differences(names)

    def _show_differences(self, names: dict[str, str]) -> None:
        t = self.t
        of_runs = [run.properties(t) for run in self.runs.values()]
        every = dict.fromkeys(name for properties in of_runs for name in properties)
        values = {name: [properties.get(name) or html.DASH for properties in of_runs] for name in every}
        rows = [
            Row(name, [name, *(html.model_name(value) for value in row)])
            for name, row in values.items()
            if len(set(row)) > 1
        ]
        self.differences.clear()
        with self.differences:
            if not self.runs:
                return
            if not rows and len(self.runs) > 1:
                ui.label(t("overlay.same")).classes("muted")
            columns = [Column(t("overlay.what")), *(Column(name) for name in names.values())]
            Table(t("overlay.differences"), columns, [self._run_row(), *rows])
            with ui.element("div").classes("buttons"):
                for job_id, name in names.items():
                    blocks.button(t("overlay.remove", name=name), lambda job_id=job_id: self.remove(job_id))

    def _run_row(self) -> Row:
        links = [
            html.two_lines(html.link(f"{BASE}/jobs/{job_id}", html.code(job_id)), _again(job_id, self.t))
            for job_id in self.runs
        ]
        return Row("runs", [self.t("overlay.run"), *links])


def _again(job_id: str, t: Translator) -> Markup:
    return html.link(f"{BASE}/jobs/new?again={job_id}", t("job.again"))
