"""Setting up a comparison, and those that were run before."""

from markupsafe import Markup
from nicegui import ui
from openai.types import FileObject

from tunery.dashboard import running
from tunery.dashboard.comparison import PREFIX, PURPOSE, Contestant, Plan
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.shots import shot_choices
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.lines import small_enough
from tunery.dashboard.models import Model, list_models
from tunery.dashboard.visit import BASE, Visit

MAX_CONTESTANTS = 3
ROWS = (20, 50, 100, 500)
NO_MODEL = ""


async def build(visit: Visit) -> None:
    t = visit.t
    files = visit.connection.client.files
    models = await list_models(visit.connection)
    datasets = small_enough((await files.list(purpose="fine-tune", limit=200)).data)
    results = [file for file in (await files.list(purpose=PURPOSE, limit=200)).data if file.filename.startswith(PREFIX)]
    blocks.heading(t("compare.title"), t("compare.subtitle"))
    if not datasets:
        action = html.button_link(f"{BASE}/datasets", t("compare.to_datasets"), primary=True)
        blocks.empty("balance", t("compare.empty"), t("compare.empty_text"), action=action)
        return
    CompareForm(visit, {model.name: model for model in models}, datasets)
    _earlier(visit, results)


class CompareForm:
    def __init__(self, visit: Visit, models: dict[str, Model], datasets: list[FileObject]) -> None:
        self.visit, self.t, self.models = visit, visit.t, models
        self.names = {file.id: file.filename for file in datasets}
        t = self.t
        with blocks.panel(t("compare.new")):
            with ui.element("div").classes("fields"):
                self.file = self._select(t("compare.file"), self.names, next(iter(self.names)))
                self.rows = self._select(t("compare.rows"), {n: str(n) for n in ROWS}, ROWS[0])
                # Not the held-out file, if there is another: examples from it would give answers away.
                self.shots_file = self._select(t("compare.shots_file"), self.names, list(self.names)[:2][-1])
            self.contestants = [self._contestant(index) for index in range(MAX_CONTESTANTS)]
            with ui.element("div").classes("buttons"):
                blocks.button(t("compare.start"), self.start, primary=True, symbol="play_arrow")
                ui.label(t("compare.note")).classes("muted small")

    def _select(self, label: str, options: dict, value: object) -> ui.select:
        return ui.select(options, value=value, label=label).props("outlined dense options-dense")

    def _contestant(self, index: int) -> tuple[ui.select, ui.select]:
        """By default: the newest fine-tune, its base bare, its base with examples."""
        tuned = next((model for model in self.models.values() if model.kind != "base"), None)
        base = tuned.base if tuned else next(iter(self.models))
        default = [tuned.name if tuned else base, base, base if tuned else NO_MODEL][index]
        choices = {NO_MODEL: self.t("compare.nobody")} | {name: name for name in self.models}
        with ui.element("div").classes("fields"):
            model = self._select(self.t("compare.model_n", n=index + 1), choices, default)
            shots = self._select(
                self.t("playground.shots"),
                shot_choices(self.t),
                5 if index == 2 else 0,
            )
        return model, shots

    def start(self) -> None:
        chosen = [
            Contestant(str(model.value), int(shots.value or 0)) for model, shots in self.contestants if model.value
        ]
        if len(set(chosen)) < 2:
            ui.notify(self.t("compare.too_few"), type="warning")
            return
        needs_shots = any(contestant.shots for contestant in chosen)
        plan = Plan(
            file_id=str(self.file.value),
            filename=self.names[str(self.file.value)],
            contestants=tuple(dict.fromkeys(chosen)),
            max_rows=int(self.rows.value or ROWS[0]),
            shots_file=str(self.shots_file.value) if needs_shots else None,
        )
        comparison = running.start(self.visit.connection, self.models, plan, self.t)
        ui.navigate.to(f"/compare/{comparison.id}")


def _earlier(visit: Visit, results: list[FileObject]) -> None:
    t = visit.t
    live = [
        Row(
            item.id,
            [
                html.link(f"{BASE}/compare/{item.id}", item.plan.filename),
                html.progress(item.done, item.total, t) if not item.error else html.status_chip("failed", t),
                html.when(item.created_at, t),
            ],
        )
        for item in running.of(visit.connection)
    ]
    stored = [
        Row(
            file.id,
            [
                html.link(f"{BASE}/compare/{file.id}", file.filename.removeprefix(PREFIX)),
                html.link(f"{BASE}/download/{file.id}", t("action.download")),
                html.when(file.created_at, t),
            ],
        )
        for file in results
    ]
    blocks.show_heading(t("compare.earlier"))
    if not live and not stored:
        html.show(Markup('<p class="muted">{}</p>').format(t("compare.none")))
        return
    columns = [Column(t("compare.file"), wide=True), Column(t("compare.result")), Column(t("jobs.created"))]
    Table(t("compare.earlier"), columns, live + stored)
