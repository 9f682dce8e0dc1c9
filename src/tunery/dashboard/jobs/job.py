"""One job: curves, events, checkpoints, what was chosen and why, what it costs; pause, resume, cancel."""

import json
from typing import Any

from markupsafe import Markup
from nicegui import ui
from nicegui.events import GenericEventArguments
from openai.types.fine_tuning import FineTuningJob
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from tunery.dashboard.components import blocks, code, html
from tunery.dashboard.components.announce import Announcer
from tunery.dashboard.components.chart import Curves
from tunery.dashboard.components.choices import file_cell, weights_text
from tunery.dashboard.components.metrics import ACCURACIES, LOSSES
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.table import Column, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.jobs.overlay import overlay_path
from tunery.dashboard.jobs.parts import (
    checkpoint_rows,
    evaluation_of,
    events_list,
    facts_of,
    failure,
    hyperparameter_rows,
    trainer_log,
)
from tunery.dashboard.jobs.samples import SampleAnswers
from tunery.dashboard.jobs.words import WordFields, tag_line, words_of
from tunery.dashboard.models import Model, list_models, playground_path
from tunery.dashboard.visit import BASE, Visit, notify
from tunery.dashboard.weights.exports import Exports
from tunery.domain.jobs import RUN_EVAL, TERMINAL, JobStatus

CURVE_POINTS = 500
NUM_EVENTS = 100


async def build(visit: Visit) -> None:
    page = JobPage(visit)
    await page.load()
    page.draw()
    await page.show_failure()
    await page.exports.show(page.models)


class JobPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.job_id = visit.param("job_id")
        self.job: FineTuningJob
        self.facts: dict[str, Any] = {}
        self.curves: dict[str, list[tuple[float, float]]] = {}
        self.events: list[Any] = []  # newest first
        self.num_events, self.has_older = NUM_EVENTS, False
        self.checkpoints: list[Any] = []
        self.files: dict[str, dict[str, Any]] = {}  # by id
        self.evaluation: dict[str, Any] | None = None
        self.samples = SampleAnswers(visit, self.job_id)
        self.poll: Poll | None = None
        self.is_waited_for = False  # by somebody who is to be told by the browser

    async def load(self) -> None:
        view = await self.visit.connection.get(
            f"/tunery/v1/jobs/{self.job_id}/view", points=CURVE_POINTS, events=NUM_EVENTS
        )
        self.facts, self.curves, self.files = view["detail"], view["curves"], view["files"]
        self.job = FineTuningJob.construct(**view["job"])
        known = {event["id"]: event for event in [*view["events"], *self.events]}
        self.events = list(known.values())[: self.num_events]
        self.has_older |= len(known) > self.num_events or len(known) == NUM_EVENTS
        self.checkpoints = [FineTuningJobCheckpoint.construct(**item) for item in view["checkpoints"]]
        if RUN_EVAL in (self.job.metadata or {}):
            found = await self.visit.ask(self.visit.connection.get(f"/tunery/v1/jobs/{self.job_id}/evaluation"))
            self.evaluation = None if isinstance(found, Failure) else found

        if self.facts["sample_prompts"]:
            await self.visit.ask(self.samples.load())

    @property
    def may_change(self) -> bool:
        return not self.is_over or (self.evaluation is not None and not self.evaluation["is_over"])

    @property
    def is_over(self) -> bool:
        return self.facts["status"] in TERMINAL

    @property
    def models(self) -> list[str]:
        """The job's own first, then its checkpoints."""
        own = [self.job.fine_tuned_model] if self.job.fine_tuned_model else []
        return list(dict.fromkeys([*own, *(each.fine_tuned_model_checkpoint for each in self.checkpoints)]))

    def draw(self) -> None:
        self._draw_head()
        self.failure = ui.element("div").classes("stack")
        with blocks.panel(self.t("job.words")) as self.words_panel:
            self.words = html.show("")
        self.tiles = html.show("").classes("tiles")
        with blocks.panel(self.t("job.loss")) as self.loss_panel:
            self.loss = Curves(self.t, self.t("job.loss"), x_name=self.t("job.step"))
        with ui.element("div").classes("columns"):
            with blocks.panel(self.t("job.accuracy")) as self.accuracy_panel:
                self.accuracy = Curves(self.t, self.t("job.accuracy"), x_name=self.t("job.step"))
            with blocks.panel(self.t("job.events")):
                self.event_list = html.show("")
                self.more_events = blocks.button(self.t("action.more"), self.load_older)
        self.samples.draw()
        with blocks.panel(self.t("job.evaluation")) as self.evaluation_panel:
            self.evaluation_part = html.show("")
        with blocks.panel(self.t("job.checkpoints")) as self.checkpoint_panel:
            columns = [
                Column(self.t("job.step"), numeric=True),
                Column(self.t("jobs.model"), wide=True),
                Column(self.t("job.metrics")),
                Column(self.t("action.open")),
            ]
            self.checkpoint_table = Table(self.t("job.checkpoints"), columns)
        self.exports = Exports(self.visit)
        with ui.element("div").classes("columns"):
            with blocks.panel(self.t("job.details")):
                self.details = html.show("")
            with blocks.panel(self.t("job.hyperparameters")):
                self.hyperparameters = html.show("")
        self._draw_code()
        self.announcer = Announcer(self.t)
        self.show()
        self.poll = Poll(self.refresh)
        if not self.may_change:
            self.poll.stop()

    def _draw_head(self) -> None:
        with ui.element("div").classes("heading"):
            self.title = html.show("")
            with ui.element("div").classes("buttons"):
                jobs = self.visit.connection.client.fine_tuning.jobs
                self.play = html.show("")
                self.again = html.show(
                    html.button_link(f"{BASE}/jobs/new?again={self.job_id}", self.t("job.again"), symbol="replay")
                )
                beside = overlay_path(*filter(None, (self.visit.query("beside"), self.job_id)))
                html.show(html.button_link(f"{BASE}{beside}", self.t("jobs.overlay"), symbol="show_chart"))
                self.improve = html.show(
                    html.button_link(f"{BASE}/jobs/{self.job_id}/improve", self.t("improve.button"), symbol="insights")
                )
                self.pause = blocks.button(
                    self.t("job.pause"), lambda: self.act(jobs.pause(self.job_id), "job.pausing"), symbol="pause"
                )
                self.resume = blocks.button(
                    self.t("job.resume"), lambda: self.act(jobs.resume(self.job_id), "job.resumed"), symbol="play_arrow"
                )
                self.bell = ui.button(self.t("job.notify"), icon="notifications", color=None)
                self.bell.props("unelevated no-caps dense").classes("btn")
                # Asked in the click itself: a browser takes the question for unasked otherwise.
                self.bell.on("click", self.on_asked, js_handler="() => askToNotify().then(emit)")
                self.export = blocks.button(self.t("export.button"), lambda: self.exports.ask(), symbol="download")
                blocks.button(self.t("job.rename"), self.ask_name, symbol="edit")
                self.cancel = blocks.danger_button(
                    self.t,
                    self.t("job.cancel"),
                    lambda: self.act(jobs.cancel(self.job_id), "job.cancelling"),
                    title=self.t("job.cancel_title"),
                    text=self.t("job.cancel_text"),
                    symbol="stop",
                )

    def _draw_code(self) -> None:
        with blocks.panel(self.t("job.code")):
            ui.label(self.t("job.code_text")).classes("muted")
            html.show(weights_text(self.facts["weights"], self.t, is_tuned=False)).classes("muted small")
            code.tabs(self.t, code.create_job(self.visit.connection.address, self.facts["request"]))

    def show(self) -> None:
        job, facts, t = self.job, self.facts, self.t
        status = facts["status"]
        name = facts["display_name"] or job.fine_tuned_model or facts["suffix"] or job.id
        state = t("job.is_pausing") if facts["pausing"] else ""
        self.title.set_content(
            Markup(
                '<h1>{}</h1><p class="buttons">{} <code>{}</code> {}<span class="muted">{}</span></p>'
                '<p class="muted small">{}</p>'
            ).format(
                html.model_name(name),
                html.status_chip(status, t),
                job.id,
                tag_line(facts["tags"]),
                state,
                self._standing(),
            )
        )
        self.words.set_content(words_of(facts, t))
        self.words_panel.visible = bool(facts["notes"] or facts["metadata"])
        play = playground_path(job.model, job.fine_tuned_model) if job.fine_tuned_model else ""
        self.play.set_content(html.button_link(play, t("job.play"), primary=True, symbol="forum") if play else "")
        self.improve.visible = status == JobStatus.SUCCEEDED
        self.pause.visible = not facts["pausing"] and status in (
            JobStatus.VALIDATING_FILES,
            JobStatus.QUEUED,
            JobStatus.RUNNING,
        )
        self.resume.visible = facts["resumable"]
        self.cancel.visible = not self.is_over
        self.bell.visible = not self.is_over and not self.is_waited_for
        self.export.visible = bool(self.models)
        self.tiles.set_content(facts_of(facts, t))
        step, total = facts["step"], facts["total_steps"]
        counted = t("job.steps", step=html.number(step), total=html.number(total))
        ended = t("job.notify_title", status=t(f"status.{status}")) if self.is_over else ""
        self.announcer.tell(step, total, counted, end=ended)
        self.loss.update({t(f"metric.{name}"): self.curves.get(name, []) for name in LOSSES})
        self.accuracy.update({t(f"metric.{name}"): self.curves.get(name, []) for name in ACCURACIES})
        has_curve = bool(self.curves.get("train_loss"))
        self.loss_panel.visible = self.accuracy_panel.visible = has_curve
        self.event_list.set_content(events_list(self.events, t))
        self.more_events.visible = self.has_older
        self.checkpoint_table.update(checkpoint_rows(self.checkpoints, job, self._standing(), t))
        self.checkpoint_panel.visible = bool(self.checkpoints)
        self.samples.show()
        self.evaluation_panel.visible = self.evaluation is not None
        if self.evaluation is not None:
            self.evaluation_part.set_content(evaluation_of(self.evaluation, t))
        self.details.set_content(self._details())
        self.hyperparameters.set_content(hyperparameter_rows(facts["hyperparameters"], facts, t))

    def _details(self) -> Markup:
        job, t = self.job, self.t

        results = [html.link(f"{BASE}/download/{file_id}", t("job.result_csv")) for file_id in job.result_files]
        return html.facts(
            [
                (t("jobs.base"), html.two_lines(html.model_name(job.model), self.facts["weights"])),
                (t("job.output"), self._output()),
                (t("create.method"), t(f"method.{self.facts['method']}")),
                (t("create.training"), file_cell(self.files[job.training_file], t)),
                (t("create.validation"), file_cell(self.files.get(job.validation_file or ""), t)),
                (t("job.results"), Markup(" ").join(results) if results else html.DASH),
                (t("create.seed"), str(job.seed)),
                (t("job.node"), self.facts["details"].get("node") or html.DASH),
                (t("jobs.created"), html.when(job.created_at, t)),
                (t("job.finished"), html.when(job.finished_at, t)),
            ]
        )

    def _output(self) -> str | Markup:
        name = self.job.fine_tuned_model
        return html.two_lines(html.model_name(name), self._standing()) if name else html.DASH

    def _standing(self) -> str:
        """What the job's models stand on: its own is a fine-tune of these, and so are its checkpoints."""
        return weights_text(self.facts["weights"], self.t, is_tuned=bool(self.job.fine_tuned_model or self.checkpoints))

    async def refresh(self) -> bool:
        """Whether to look again."""
        before = self.facts["status"]
        if isinstance(await self.visit.ask(self.load()), Failure):
            return True  # the next look may succeed: the page stays as it is
        self.show()
        await self.exports.show(self.models)
        if self.facts["status"] != before:
            await self.show_failure()
            self.tell_end()
        return self.may_change

    def on_asked(self, event: GenericEventArguments) -> None:
        if event.args != "granted":
            told = self.t("job.notify_denied") if event.args == "denied" else self.t("job.notify_unsupported")
            notify(told, bad=True)
            return
        self.is_waited_for = True
        if self.poll is not None:
            self.poll.looks_hidden = True
        self.show()
        notify(self.t("job.notify_granted"))

    def tell_end(self) -> None:
        """By the browser, to whoever asked for it."""
        if not (self.is_waited_for and self.is_over):
            return
        self.is_waited_for = False
        if self.poll is not None:
            self.poll.looks_hidden = False
        name = self.facts["display_name"] or self.job.fine_tuned_model or self.facts["suffix"] or self.job.id
        told = self.t("job.notify_title", status=self.t(f"status.{self.facts['status']}"))
        ui.run_javascript(f"tellEnd({json.dumps(told)}, {json.dumps(name)})")

    async def load_older(self) -> None:
        jobs = self.visit.connection.client.fine_tuning.jobs
        older = jobs.list_events(self.job_id, after=self.events[-1]["id"], limit=NUM_EVENTS)
        page = await self.visit.result_of(older)
        if not isinstance(page, Failure):
            self.events += [event.to_dict() for event in page.data]
            self.num_events, self.has_older = len(self.events), bool(page.has_more)
            self.show()

    async def show_failure(self) -> None:
        self.failure.clear()
        if self.job.error is not None and self.facts["status"] == JobStatus.FAILED:
            with self.failure:
                await failure(self.visit, self.job, self.facts["texts"])
                await trainer_log(self.visit, self.job_id)

    async def act(self, call: Any, done: str) -> None:
        """A second tab may have been quicker: the server's answer is shown and the page looks again."""
        await self.visit.attempt(call, done=self.t(done))
        if await self.refresh() and self.poll is not None:
            self.poll.again()

    async def ask_name(self) -> None:
        """The dialog stays, with what was typed, until the server has it."""
        model = await self._find_model()
        with blocks.dialog_box(self.t("job.rename")) as dialog:
            ui.label(self.t("job.rename_text")).classes("muted")
            fields = WordFields(self.t, self.facts)
            of_model = None
            if model is not None:
                of_model = ui.input(self.t("job.model_display_name"), value=model.display_name or "")
                of_model.props("outlined dense maxlength=200")

            async def save() -> None:
                if problem := fields.problem():
                    notify(problem, bad=True)
                    return
                words = {**fields.words(), "metadata": {**fields.kept, **fields.pairs()}}
                posted = {f"/tunery/v1/jobs/{self.job_id}": words}
                if model is not None and of_model is not None:
                    posted[f"/tunery/v1/models/{model.name}"] = {"display_name": (of_model.value or "").strip() or None}
                if await self.visit.attempt(self._post(posted), done=self.t("action.saved")):
                    dialog.close()
                    await self.refresh()

            with ui.element("div").classes("buttons end"):
                blocks.button(self.t("action.back"), dialog.close)
                blocks.button(self.t("action.save"), save, primary=True)
        dialog.open()

    async def _find_model(self) -> Model | None:
        """The job's model, while it is there."""
        name = self.job.fine_tuned_model
        if not name:
            return None
        found = await self.visit.ask(list_models(self.visit.connection, search=name))
        if isinstance(found, Failure):
            return None  # the job itself can be named all the same
        return next((model for model in found if model.name == name), None)

    async def _post(self, bodies: dict[str, dict[str, Any]]) -> None:
        for path, body in bodies.items():
            await self.visit.connection.post(path, body)
