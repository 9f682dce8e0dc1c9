"""Creating a job. Beside the form, before the button: what the file holds, how long it takes and what it costs."""

import asyncio
from typing import Any

from nicegui import ui
from openai.types import FileObject

from tunery.dashboard.checks import estimate, split
from tunery.dashboard.components import blocks, code, html
from tunery.dashboard.components.drop import Drop
from tunery.dashboard.models import Model, list_models, trainable
from tunery.dashboard.pages.job_parts import hyperparameter_rows
from tunery.dashboard.pages.report import check_file, show_advice, show_report
from tunery.dashboard.visit import Visit

MAX_FILES = 200
METHODS = ("supervised", "dpo")
HYPERPARAMETERS = {"n_epochs": (1, 50), "batch_size": (1, 256), "learning_rate_multiplier": (0.01, 20)}
VALIDATION_SHARE = 0.1
NONE, SPLIT = "none", "split"


async def build(visit: Visit) -> None:
    models = trainable(await list_models(visit.connection))
    files = (await visit.connection.client.files.list(purpose="fine-tune", limit=MAX_FILES)).data
    blocks.heading(visit.t("create.title"), visit.t("create.subtitle"))
    form = CreateForm(visit, models, files)
    form.draw()
    ui.timer(0, form.check, once=True)  # a large file takes its time: the form is there before the report


class CreateForm:
    def __init__(self, visit: Visit, models: list[Model], files: list[FileObject]) -> None:
        self.visit, self.t, self.models = visit, visit.t, models
        self.files = {file.id: file.filename for file in files}
        self.checking: asyncio.Task[None] | None = None

    # ---- the form
    def draw(self) -> None:
        with ui.element("div").classes("columns form"):
            with ui.element("div").classes("stack"):
                self._draw_data()
                self._draw_model()
                self._draw_hyperparameters()
            with blocks.panel(self.t("create.before"), css="report"):
                self.report = ui.element("div").classes("stack").props("aria-live=polite")
                with ui.element("div").classes("buttons"):
                    self.submit = blocks.button(
                        self.t("create.submit"), self.create, primary=True, symbol="rocket_launch"
                    )
                    blocks.button(self.t("create.as_code"), self.show_code, symbol="code")

    def _draw_data(self) -> None:
        t = self.t
        wanted = self.visit.query("file")
        with blocks.panel(t("create.data")):
            Drop(t, t("upload.drop"), self.on_upload)
            self.training = self._select(
                t("create.training"), dict(self.files), wanted if wanted in self.files else None
            )
            choices = {NONE: t("create.no_validation"), SPLIT: t("create.split")} | self.files
            held_out = self.visit.query("validation")
            self.validation = self._select(t("create.validation"), choices, held_out if held_out in choices else NONE)

    def _draw_model(self) -> None:
        t = self.t
        names = [model.name for model in self.models]
        wanted = self.visit.query("model")
        with blocks.panel(t("create.model")):
            self.model = self._select(t("jobs.base"), {n: n for n in names}, wanted if wanted in names else names[0])
            methods = {method: t(f"method.{method}") for method in METHODS}
            self.method = self._select(t("create.method"), methods, METHODS[0])
            with ui.element("div").classes("fields"):
                self.suffix = ui.input(t("create.suffix"), placeholder=t("create.suffix_hint"))
                self.suffix.props("outlined dense maxlength=64")
                self.seed = ui.number(t("create.seed"), min=0, max=2**31 - 1, step=1).props("outlined dense")

    def _draw_hyperparameters(self) -> None:
        t = self.t
        with blocks.panel(t("job.hyperparameters")):
            ui.label(t("create.auto_text")).classes("muted small")
            with ui.element("div").classes("fields"):
                self.hyperparameters = {
                    name: self._hyperparameter(name, low, high) for name, (low, high) in HYPERPARAMETERS.items()
                }
                self.beta = self._hyperparameter("beta", 0.01, 2)
                self.beta.bind_visibility_from(self.method, "value", lambda method: method == "dpo")

    def _hyperparameter(self, name: str, low: float, high: float) -> ui.number:
        """Empty means auto."""
        field = ui.number(self.t(f"create.{name}"), min=low, max=high, placeholder="auto", on_change=self.recheck)
        return field.props("outlined dense clearable stack-label debounce=400")

    def _select(self, label: str, options: dict[str, str], value: str | None) -> ui.select:
        select = ui.select(options, value=value, label=label, on_change=self.recheck)
        return select.props("outlined dense options-dense")

    async def on_upload(self, stored: dict[str, Any]) -> None:
        self.files = {stored["id"]: stored["filename"]} | self.files
        self.training.set_options(dict(self.files), value=stored["id"])
        choices = {NONE: self.t("create.no_validation"), SPLIT: self.t("create.split")} | self.files
        self.validation.set_options(choices, value=self.validation.value)

    # ---- the report beside it
    def recheck(self) -> None:
        """Only the latest choice is checked: an older check that still runs is dropped."""
        if self.checking is not None:
            self.checking.cancel()
        self.checking = asyncio.ensure_future(self.check())

    async def check(self) -> None:
        self.submit.set_enabled(False)
        self.report.clear()
        if not self.training.value:
            with self.report:
                ui.label(self.t("create.choose_file")).classes("muted")
            return
        report = await check_file(self.visit, self.report, **self._file_and_model())
        if report is None:
            return
        try:
            forecast = await estimate(self.visit.connection, self._body()) if report["valid"] else None
        except Exception as error:
            with self.report:
                blocks.note(self.visit.fail(error), kind="bad")
            return
        with self.report:
            if forecast is not None:
                self._show_forecast(forecast)
            show_report(report, self.t, with_advice=forecast is None)
        self.submit.set_enabled(report["valid"])

    def _show_forecast(self, forecast: dict[str, Any]) -> None:
        t = self.t
        time_text = t("create.time_guess" if forecast["is_rough_guess"] else "create.time_text")
        html.tiles(
            [
                (t("create.cost"), html.money(forecast["cost"], forecast["currency"]), t("create.cost_text")),
                (t("job.time"), html.time_range(forecast["min_s"], forecast["max_s"], t), time_text),
                (t("create.steps"), html.number(forecast["num_steps"]), t("create.steps_text")),
            ]
        )
        show_advice(forecast["advice"], t)  # the report's, and what only the whole job shows
        used = {*HYPERPARAMETERS, *(["beta"] if self.method.value == "dpo" else [])}
        chosen = {name: value for name, value in forecast["hyperparameters"].items() if name in used}
        html.show(hyperparameter_rows(chosen, forecast, t))

    # ---- what is sent
    def _file_and_model(self) -> dict[str, str]:
        return {
            "file_id": str(self.training.value),
            "model": str(self.model.value),
            "method": str(self.method.value),
        }

    def _body(self) -> dict[str, Any]:
        """The request that creates the job."""
        chosen = {name: field.value for name, field in self.hyperparameters.items() if field.value is not None}
        chosen = {name: int(value) if name != "learning_rate_multiplier" else value for name, value in chosen.items()}
        method = str(self.method.value)
        if method == "dpo" and self.beta.value is not None:
            chosen["beta"] = self.beta.value
        body: dict[str, Any] = {"model": str(self.model.value), "training_file": str(self.training.value)}
        if self.validation.value not in (NONE, SPLIT):
            body["validation_file"] = str(self.validation.value)
        if suffix := (self.suffix.value or "").strip():
            body["suffix"] = suffix
        if self.seed.value is not None:
            body["seed"] = int(self.seed.value)
        body["method"] = {"type": method, method: {"hyperparameters": chosen}}
        return body

    async def create(self) -> None:
        made: list[str] = []

        async def make() -> None:
            body = self._body()
            if self.validation.value == SPLIT:
                parts = await split(self.visit.connection, body["training_file"], VALIDATION_SHARE)
                body |= parts
            made.append((await self.visit.connection.client.fine_tuning.jobs.create(**body)).id)

        if await self.visit.attempt(make()):
            ui.navigate.to(f"/jobs/{made[0]}")

    def show_code(self) -> None:
        if not self.training.value:
            ui.notify(self.t("create.choose_file"), type="warning")
            return
        with blocks.dialog_box(self.t("create.as_code")) as dialog:
            code.tabs(self.t, code.create_job(f"{self.visit.connection.address}/v1", self._body()))
        dialog.open()
