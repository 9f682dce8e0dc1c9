"""One job: curves, events, checkpoints, what was chosen and why, what it costs; pause, resume, cancel."""

from typing import Any

from markupsafe import Markup
from nicegui import ui
from openai import NotFoundError
from openai.types.fine_tuning import FineTuningJob

from tunery.dashboard.components import blocks, code, html
from tunery.dashboard.components.chart import Curves
from tunery.dashboard.components.table import Column, Table
from tunery.dashboard.models import playground_path
from tunery.dashboard.pages.job_parts import checkpoint_rows, events_list, facts_of, failure, hyperparameter_rows
from tunery.dashboard.visit import BASE, Visit
from tunery.domain.jobs import TERMINAL, JobStatus

POLL_S = 1.5
CURVE_POINTS = 500
NUM_EVENTS = 100
LOSSES = ("train_loss", "valid_loss", "full_valid_loss")
ACCURACIES = ("train_mean_token_accuracy", "valid_mean_token_accuracy", "full_valid_mean_token_accuracy")


async def build(visit: Visit) -> None:
    page = JobPage(visit)
    await page.load()
    page.draw()
    await page.show_failure()


class JobPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.job_id = visit.param("job_id")
        self.job: FineTuningJob
        self.facts: dict[str, Any] = {}
        self.curves: dict[str, list[tuple[float, float]]] = {}
        self.events: list[Any] = []
        self.checkpoints: list[Any] = []
        self.file_names: dict[str, str] = {}  # by id; a deleted file has none

    async def load(self) -> None:
        jobs = self.visit.connection.client.fine_tuning.jobs
        # The state first: once it says that the job is over nothing is asked again, so all else must be as new.
        self.facts = await self.visit.connection.get(f"/tunery/v1/jobs/{self.job_id}")
        self.job = await jobs.retrieve(self.job_id)
        self.curves = await self.visit.connection.get(f"/tunery/v1/jobs/{self.job_id}/curves", points=CURVE_POINTS)
        self.events = (await jobs.list_events(self.job_id, limit=NUM_EVENTS)).data
        self.checkpoints = (await jobs.checkpoints.list(self.job_id, limit=20)).data
        for file_id in filter(None, (self.job.training_file, self.job.validation_file)):
            if file_id not in self.file_names:
                self.file_names[file_id] = await self._name_of(file_id)

    async def _name_of(self, file_id: str) -> str:
        try:
            return (await self.visit.connection.client.files.retrieve(file_id)).filename
        except NotFoundError:
            return ""

    @property
    def is_over(self) -> bool:
        return self.facts["status"] in TERMINAL

    def draw(self) -> None:
        self._draw_head()
        self.failure = ui.element("div").classes("stack")
        self.tiles = html.show("").classes("tiles")
        with blocks.panel(self.t("job.loss")) as self.loss_panel:
            self.loss = Curves(self.t("job.loss"), x_name=self.t("job.step"))
        with ui.element("div").classes("columns"):
            with blocks.panel(self.t("job.accuracy")) as self.accuracy_panel:
                self.accuracy = Curves(self.t("job.accuracy"), x_name=self.t("job.step"))
            with blocks.panel(self.t("job.events")):
                self.event_list = html.show("")
        with blocks.panel(self.t("job.checkpoints")) as self.checkpoint_panel:
            columns = [
                Column(self.t("job.step"), numeric=True),
                Column(self.t("jobs.model"), wide=True),
                Column(self.t("job.metrics")),
                Column(self.t("action.open")),
            ]
            self.checkpoint_table = Table(self.t("job.checkpoints"), columns)
        with ui.element("div").classes("columns"):
            with blocks.panel(self.t("job.details")):
                self.details = html.show("")
            with blocks.panel(self.t("job.hyperparameters")):
                self.hyperparameters = html.show("")
        self._draw_code()
        self.show()
        if not self.is_over:
            self.timer = ui.timer(POLL_S, self.refresh)

    def _draw_head(self) -> None:
        with ui.element("div").classes("heading"):
            self.title = html.show("")
            with ui.element("div").classes("buttons"):
                jobs = self.visit.connection.client.fine_tuning.jobs
                self.play = html.show("")
                self.pause = blocks.button(
                    self.t("job.pause"), lambda: self.act(jobs.pause(self.job_id), "job.pausing"), symbol="pause"
                )
                self.resume = blocks.button(
                    self.t("job.resume"), lambda: self.act(jobs.resume(self.job_id), "job.resumed"), symbol="play_arrow"
                )
                self.cancel = blocks.button(self.t("job.cancel"), self.ask_cancel, danger=True, symbol="stop")

    def _draw_code(self) -> None:
        with blocks.panel(self.t("job.code")):
            ui.label(self.t("job.code_text")).classes("muted")
            base_url = f"{self.visit.connection.address}/v1"
            code.tabs(self.t, code.create_job(base_url, self.facts["request"]))

    def show(self) -> None:
        job, facts, t = self.job, self.facts, self.t
        status = facts["status"]
        name = job.fine_tuned_model or facts["suffix"] or job.id
        self.title.set_content(
            Markup('<h1>{}</h1><p class="buttons">{} <code>{}</code></p>').format(
                html.model_name(name), html.status_chip(status, t), job.id
            )
        )
        play = playground_path(job.model, job.fine_tuned_model) if job.fine_tuned_model else ""
        self.play.set_content(html.button_link(play, t("job.play"), primary=True, symbol="forum") if play else "")
        self.pause.visible = status in (JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.RUNNING)
        self.resume.visible = status == JobStatus.PAUSED
        self.cancel.visible = not self.is_over
        self.tiles.set_content(facts_of(facts, t))
        self.loss.update({t(f"metric.{name}"): self.curves.get(name, []) for name in LOSSES})
        self.accuracy.update({t(f"metric.{name}"): self.curves.get(name, []) for name in ACCURACIES})
        has_curve = bool(self.curves.get("train_loss"))
        self.loss_panel.visible = self.accuracy_panel.visible = has_curve
        self.event_list.set_content(events_list(self.events, t))
        self.checkpoint_table.update(checkpoint_rows(self.checkpoints, job, t))
        self.checkpoint_panel.visible = bool(self.checkpoints)
        self.details.set_content(self._details())
        self.hyperparameters.set_content(hyperparameter_rows(facts["hyperparameters"], facts, t))

    def _details(self) -> Markup:
        job, t = self.job, self.t

        def file_link(file_id: str | None) -> str | Markup:
            if not file_id:
                return html.DASH
            name = self.file_names[file_id]
            link = html.link(f"{BASE}/datasets/{file_id}", name or file_id)
            return html.two_lines(link, file_id) if name else link

        results = [html.link(f"{BASE}/download/{file_id}", t("job.result_csv")) for file_id in job.result_files]
        return html.facts(
            [
                (t("jobs.base"), html.model_name(job.model)),
                (t("job.output"), html.model_name(job.fine_tuned_model or html.DASH)),
                (t("create.method"), t(f"method.{self.facts['method']}")),
                (t("create.training"), file_link(job.training_file)),
                (t("create.validation"), file_link(job.validation_file)),
                (t("job.results"), Markup(" ").join(results) if results else html.DASH),
                (t("create.seed"), str(job.seed)),
                (t("jobs.created"), html.when(job.created_at, t)),
                (t("job.finished"), html.when(job.finished_at, t)),
            ]
        )

    async def refresh(self) -> None:
        try:
            await self.load()
        except Exception as error:
            self.visit.fail(error)  # the next look may succeed: the page stays as it is
            return
        self.show()
        if self.is_over:
            self.timer.deactivate()
            await self.show_failure()

    async def show_failure(self) -> None:
        self.failure.clear()
        if self.job.error is not None and self.facts["status"] == JobStatus.FAILED:
            with self.failure:
                await failure(self.visit, self.job, self.facts["texts"])

    async def act(self, call: Any, done: str) -> None:
        """A second tab may have been quicker: the server's answer is shown and the page looks again."""
        await self.visit.attempt(call, done=self.t(done))
        await self.refresh()

    def ask_cancel(self) -> None:
        jobs = self.visit.connection.client.fine_tuning.jobs
        blocks.confirm(
            self.t,
            title=self.t("job.cancel_title"),
            text=self.t("job.cancel_text"),
            yes=self.t("job.cancel"),
            action=lambda: self.act(jobs.cancel(self.job_id), "job.cancelling"),
        )
