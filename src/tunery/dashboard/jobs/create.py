"""Creating a job. Beside the form, before the button: what the file holds, how long it takes and what it costs."""

import asyncio
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.checks import split
from tunery.dashboard.components import blocks, code, html
from tunery.dashboard.components.choices import FIRST, Choice, Files, Models, weights_line
from tunery.dashboard.components.drop import Drop
from tunery.dashboard.components.report import check_file, show_advice, show_report
from tunery.dashboard.connection import Connection, Failure
from tunery.dashboard.jobs.parts import hyperparameter_rows
from tunery.dashboard.jobs.samples import SampleFields
from tunery.dashboard.jobs.words import WordFields
from tunery.dashboard.models import list_models, trainable
from tunery.dashboard.visit import Visit, notify
from tunery.datasets.examine import ACCEPTS
from tunery.domain.hyperparameters import AUTO
from tunery.domain.jobs import EARLY_STOPPING, METHODS, OBEYED, RUN_EVAL, RUN_EVAL_FILE, is_wanted

HYPERPARAMETERS = {"n_epochs": (1, 50), "batch_size": (1, 256), "learning_rate_multiplier": (0.01, 20)}
VALIDATION_SHARE = 0.1
NONE, SPLIT = "none", "split"


async def build(visit: Visit) -> None:
    again = quote(visit.query("again"), safe="")
    earlier = await visit.connection.get(f"/tunery/v1/jobs/{again}") if again else None
    queried = {"training_file": "file", "validation_file": "validation", "model": "model"}
    given = earlier["request"] if earlier else {name: visit.query(short) for name, short in queried.items()}
    files = Files(visit)
    listed, evals, _ = await asyncio.gather(list_models(visit.connection, limit=FIRST), find_evals(visit), files.find())
    models = Models(visit, trainable(listed), wanted=lambda m: m.training)
    if (named := given["model"]) and named not in models.known:
        await models.find(named)
    named_files = [file_id for name in ("training_file", "validation_file") if (file_id := given.get(name))]
    for file_id in named_files:
        if file_id not in files.known:
            await files.fetch(file_id)
    blocks.heading(visit.t("create.title"), visit.t("create.subtitle"))
    if earlier:
        missing = [name for name in named_files if name not in files.known]
        missing += [given["model"]] if given["model"] not in models.known else []
        _tell_of_earlier(visit, earlier, missing)
    form = CreateForm(visit, models, files, evals, given, earlier or {})
    form.draw()
    await form.show_name()
    ui.timer(0, form.check, once=True)  # a large file takes its time: the form is there before the report


def _tell_of_earlier(visit: Visit, earlier: dict[str, Any], missing: list[str]) -> None:
    name = earlier["display_name"] or earlier["fine_tuned_model"] or earlier["suffix"] or earlier["id"]
    blocks.note(visit.t("create.again_of", name=name))
    if missing:
        blocks.note(visit.t("create.again_gone", names=", ".join(missing)), kind="warn")


class CreateForm:
    def __init__(
        self,
        visit: Visit,
        models: Models,
        files: Files,
        evals: dict[str, str],
        given: dict[str, Any],
        earlier: dict[str, Any],
    ) -> None:
        """`given`: of a request what the fields hold at first, and all of it for the job `earlier` once more."""
        self.visit, self.t, self.models, self.files, self.evals = visit, visit.t, models, files, evals
        self.given, self.earlier = given, earlier
        self.metadata: dict[str, str] = given.get("metadata") or {}
        self.checking: asyncio.Task[None] | None = None
        self.followed: str | None = None  # the training file that the method was set after

    # ---- the form
    def draw(self) -> None:
        with ui.element("div").classes("columns form"):
            with ui.element("div").classes("stack"):
                self._draw_data()
                self._draw_model()
                self._draw_hyperparameters()
                with blocks.panel(self.t("samples.title")):
                    self.samples = SampleFields(self.visit, self.given.get("sample_prompts") or [])
                    self.samples.questions.props("debounce=600").on_value_change(self.recheck)
                    blocks.button(self.t("samples.take"), self.take_samples)
                with blocks.panel(self.t("job.words")):
                    self.words = WordFields(self.t, {**self.earlier, "metadata": self.metadata})
            with blocks.panel(self.t("create.before"), css="report"):
                self.report = ui.element("div").classes("stack").props("aria-live=polite")
                with ui.element("div").classes("buttons"):
                    self.submit = blocks.button(
                        self.t("create.submit"), self.create, primary=True, symbol="rocket_launch"
                    )
                    blocks.button(self.t("create.as_code"), self.show_code, symbol="code")

    def _draw_data(self) -> None:
        t = self.t
        wanted = self.given["training_file"]
        with blocks.panel(t("create.data")):
            Drop(t, t("upload.drop"), self.on_upload)
            self.training = self._file_choice(t("create.training"), wanted if wanted in self.files.known else None)
            choices = {NONE: t("create.no_validation"), SPLIT: t("create.split")}
            held_out = self.given.get("validation_file") or ""
            self.validation = self._file_choice(
                t("create.validation"), held_out if held_out in {*choices, *self.files.known} else NONE, choices
            )
            asked = self.metadata.get(RUN_EVAL, NONE)
            self.evaluation = ui.select(
                {NONE: t("create.no_eval"), **self.evals},
                value=asked if asked in self.evals else NONE,
                label=t("create.eval"),
            )
            self.evaluation.props(f'outlined dense options-dense hint="{t("create.eval_text")}"')
            self.evaluation.visible = bool(self.evals)

    def _draw_model(self) -> None:
        t = self.t
        labels = self.models.labels()
        wanted, request = self.given["model"], self.given
        with blocks.panel(t("create.model")):
            self.model = Choice(
                self.visit,
                t("jobs.base"),
                self.models.find,
                labels,
                value=wanted if wanted in labels else next(iter(labels), None),
                on_change=self.change_model,
            )
            self.weights = html.show("").classes("muted small")
            methods = {method: t(f"method.{method}") for method in METHODS}
            chosen = request["method"]["type"] if self.earlier else METHODS[0]
            self.method = self._select(t("create.method"), methods, chosen)
            with ui.element("div").classes("fields"):
                suffix = request.get("suffix") or ""
                self.suffix = ui.input(t("create.suffix"), value=suffix, placeholder=t("create.suffix_hint"))
                self.suffix.props("outlined dense maxlength=64 debounce=300").on_value_change(self.show_name)
                seed = request.get("seed")
                self.seed = ui.number(t("create.seed"), value=seed, min=0, max=2**31 - 1, step=1)
                self.seed.props("outlined dense")
            self.name = html.show("").classes("muted small").props("aria-live=polite")

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
            self.early = ui.checkbox(t("create.early_stopping"), value=is_wanted(self.metadata, EARLY_STOPPING))

    def _hyperparameter(self, name: str, low: float, high: float) -> ui.number:
        """Empty means auto."""
        method: dict[str, Any] = self.given.get("method") or {"type": ""}
        value = method.get(method["type"], {}).get("hyperparameters", {}).get(name)
        value = None if value == AUTO else value
        label = self.t(f"create.{name}")
        field = ui.number(label, value=value, min=low, max=high, placeholder="auto", on_change=self.recheck)
        return field.props("outlined dense clearable stack-label debounce=400")

    def _select(self, label: str, options: dict[str, str], value: str | None) -> ui.select:
        select = ui.select(options, value=value, label=label, on_change=self.recheck)
        return select.props("outlined dense options-dense")

    def _file_choice(self, label: str, value: str | None, fixed: dict[str, str] | None = None) -> Choice:
        labels = self.files.labels()
        return Choice(self.visit, label, self.files.find, labels, value=value, fixed=fixed, on_change=self.recheck)

    async def on_upload(self, stored: dict[str, Any]) -> None:
        newest = await self.files.find()
        self.training.offer(newest, value=stored["id"])
        self.validation.offer(newest)

    async def change_model(self) -> None:
        self.recheck()
        await self.show_name()

    async def show_name(self) -> None:
        """What answers, and what the new model will be called: the suffix stands in its name in OpenAI's form."""
        model = self.models.known.get(str(self.model.value))
        self.weights.set_content(weights_line(model, self.t) if model else "")
        suffix = (self.suffix.value or "").strip()
        named = self.visit.connection.get("/tunery/v1/model_name", model=self.model.value, suffix=suffix)
        found = await self.visit.ask(named)
        if isinstance(found, Failure):
            self.name.set_content(Markup('<span class="bad-text">{}</span>').format(found.message(self.t)))
            return
        name = html.model_name(found["name"])
        self.name.set_content(Markup("{} <code>{}</code>").format(self.t("create.name_becomes"), name))

    async def take_samples(self) -> None:
        """From the validation file, where there is one: the model has not learned its rows."""
        held_out = self.validation.value if self.validation.value not in (None, NONE, SPLIT) else None
        if file_id := held_out or self.training.value:
            await self.visit.attempt(self.samples.take_from(str(file_id)))
        else:
            notify(self.t("create.choose_file"), bad=True)

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
        report = await check_file(self.visit, self.report, **self._file_and_model(), validation_share=self._share())
        if report is None or self._follow(report["format"]):
            return
        body = self._body()
        if share := self._share():
            body["validation_share"] = share
        forecast = None
        if report["valid"]:
            forecast = await self.visit.ask(self.visit.connection.post("/tunery/v1/estimates", body))
        if isinstance(forecast, Failure):
            with self.report:
                blocks.note(forecast.message(self.t), kind="bad")
            return
        with self.report:
            if share:
                ui.label(self.t("create.split_text")).classes("muted small")
            if forecast is not None:
                self._show_forecast(forecast)
            show_report(report, self.t, with_advice=forecast is None)
        self.submit.set_enabled(report["valid"])

    def _follow(self, form: str | None) -> bool:
        """Sets the method after a newly chosen file. Whether it is another one now: then all is checked anew."""
        if self.followed == self.training.value:
            return False
        self.followed, before = self.training.value, self.method.value
        self.method.value = next((method for method in METHODS if form in ACCEPTS[method]), before)
        return self.method.value != before

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
        if samples := forecast["samples"]:
            cost = html.money(samples["cost"], forecast["currency"])
            figures = {name: html.number(samples[name]) for name in ("num_answers", "num_tokens")}
            blocks.note(t("samples.cost", cost=cost, **figures))
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

    def _share(self) -> float | None:
        """Of the training file, to be held back."""
        return VALIDATION_SHARE if self.validation.value == SPLIT else None

    def _body(self) -> dict[str, Any]:
        """The request that creates the job."""
        chosen = {name: field.value for name, field in self.hyperparameters.items() if field.value is not None}
        chosen = {name: int(value) if name != "learning_rate_multiplier" else value for name, value in chosen.items()}
        method = str(self.method.value)
        if method == "dpo" and self.beta.value is not None:
            chosen["beta"] = self.beta.value
        body: dict[str, Any] = {"model": str(self.model.value), "training_file": str(self.training.value)}
        if self.validation.value not in (None, NONE, SPLIT):
            body["validation_file"] = str(self.validation.value)
        if suffix := (self.suffix.value or "").strip():
            body["suffix"] = suffix
        if self.seed.value is not None:
            body["seed"] = int(self.seed.value)
        body["method"] = {"type": method, method: {"hyperparameters": chosen}}
        if metadata := self._metadata():
            body["metadata"] = metadata
        if prompts := self.samples.prompts():
            body["sample_prompts"] = prompts
        if integrations := self.given.get("integrations"):
            body["integrations"] = integrations
        return body

    def _metadata(self) -> dict[str, str]:
        """What the server acts on, and the client's own pairs."""
        made = {name: value for name, value in self.words.kept.items() if name not in OBEYED}
        if self.evaluation.value != NONE:
            made[RUN_EVAL] = str(self.evaluation.value)
            if made[RUN_EVAL] == self.metadata.get(RUN_EVAL) and RUN_EVAL_FILE in self.metadata:
                made[RUN_EVAL_FILE] = self.metadata[RUN_EVAL_FILE]
        if self.early.value:
            made[EARLY_STOPPING] = "true"
        return made | self.words.pairs()

    async def create(self) -> None:
        if problem := self.words.problem():
            notify(problem, bad=True)
            return
        made: list[str] = []

        async def make() -> None:
            body = self._body()
            if share := self._share():
                job_id = await create_split(self.visit.connection, body, share)
            else:
                jobs = self.visit.connection.client.fine_tuning.jobs
                job_id = (await jobs.create(**code.for_library(body))).id
            made.append(job_id)
            words = {name: value for name, value in self.words.words().items() if value}
            if words:
                await self.visit.connection.post(f"/tunery/v1/jobs/{job_id}", words)

        if await self.visit.attempt(make()) or made:
            beside = f"?beside={self.earlier['id']}" if self.earlier else ""
            ui.navigate.to(f"/jobs/{made[0]}{beside}")

    def show_code(self) -> None:
        if not self.training.value:
            ui.notify(self.t("create.choose_file"), type="warning")
            return
        with blocks.dialog_box(self.t("create.as_code")) as dialog:
            html.show(self.weights.content).classes("muted small")
            code.tabs(
                self.t, code.create_job(self.visit.connection.address, self._body(), validation_share=self._share())
            )
        dialog.open()


async def find_evals(visit: Visit) -> dict[str, str]:
    """The newest evaluations, by id; none for a key that may not see them."""
    listed = await visit.ask(visit.connection.get("/v1/evals", order="desc", limit=FIRST))
    return {} if isinstance(listed, Failure) else {each["id"]: each["name"] or each["id"] for each in listed["data"]}


async def create_split(connection: Connection, job: dict[str, Any], share: float) -> str:
    """The id of a job on the two parts of its training file. When it cannot be created the parts go again."""
    parts: dict[str, Any] = await split(connection, job["training_file"], share)
    try:
        return (await connection.client.fine_tuning.jobs.create(**code.for_library({**job, **parts}))).id
    except BaseException:
        for file_id in parts.values():
            await asyncio.shield(connection.client.files.delete(file_id))
        raise
