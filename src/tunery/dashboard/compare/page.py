"""Setting up a comparison, and those that were run before."""

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.compare import running
from tunery.dashboard.comparison import PREFIX, PURPOSE, Contestant, Plan
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import FIRST, MAX_HELD_BYTES, Choice, Files, Models, weights_line
from tunery.dashboard.components.shots import shot_choices
from tunery.dashboard.components.table import Column, Page, PagedTable, Row
from tunery.dashboard.connection import Failure
from tunery.dashboard.evals.parts import PATH
from tunery.dashboard.models import list_models
from tunery.dashboard.visit import BASE, Visit, notify
from tunery.texts.amounts import size

PAGE = 20
ROWS = (20, 50, 100, 500)
NO_MODEL = ""
FILES = "/tunery/v1/files"


async def build(visit: Visit) -> None:
    t = visit.t
    files = Files(visit, max_bytes=MAX_HELD_BYTES)
    listed, _ = await asyncio.gather(list_models(visit.connection, limit=FIRST), files.find())
    blocks.heading(t("compare.title"), t("compare.subtitle"))
    if not files.known:
        action = html.button_link(f"{BASE}/datasets", t("compare.to_datasets"), primary=True)
        blocks.empty("balance", t("compare.empty"), t("compare.empty_text"), action=action)
        return
    CompareForm(visit, Models(visit, listed), files)
    await Earlier(visit).draw()


class CompareForm:
    def __init__(self, visit: Visit, models: Models, files: Files) -> None:
        self.visit, self.t, self.models, self.files = visit, visit.t, models, files
        self.newest = list(files.known)
        t, defaults = self.t, self._default_models()
        held_out = next((file_id for file_id in self.newest if not self._learned_by(file_id, defaults)), None)
        # Not the held-out file, if there is another: examples from it would give answers away.
        examples = next((file_id for file_id in reversed(self.newest) if file_id != held_out), self.newest[0])
        with blocks.panel(t("compare.new")):
            with ui.element("div").classes("fields"):
                self.file = self._file_choice(t("compare.file"), held_out)
                self.rows = ui.select({n: str(n) for n in ROWS}, value=ROWS[0], label=t("compare.rows"))
                self.rows.props("outlined dense options-dense")
                self.shots_file = self._file_choice(t("compare.shots_file"), examples)
            if self.files.has_larger:
                ui.label(t("compare.too_large", size=size(MAX_HELD_BYTES))).classes("muted small")
            self.contestants = [self._contestant(index, name) for index, name in enumerate(defaults)]
            self.warnings = ui.element("div").classes("stack").props("aria-live=polite")
            with ui.element("div").classes("buttons"):
                blocks.button(t("compare.start"), self.start, primary=True, symbol="play_arrow")
                ui.label(t("compare.note")).classes("muted small")
        self.warn()

    def _default_models(self) -> list[str]:
        """The newest fine-tune, its base bare, its base with examples; before there is one, the base in both ways."""
        tuned = next((model for model in self.models.known.values() if model.kind != "base"), None)
        if tuned is None:
            base = next(iter(self.models.known))
            return [base, NO_MODEL, base]
        return [tuned.name, tuned.base, tuned.base]

    def _file_choice(self, label: str, value: str | None) -> Choice:
        labels = self.files.labels()
        return Choice(self.visit, label, self.files.find, labels, value=value, on_change=self.warn)

    def _contestant(self, index: int, default: str) -> tuple[Choice, ui.select, ui.html]:
        label, labels = self.t("compare.model_n", n=index + 1), self.models.labels()
        nobody = {NO_MODEL: self.t("compare.nobody")}
        with ui.element("div").classes("fields"):
            model = Choice(
                self.visit, label, self.models.find, labels, value=default, fixed=nobody, on_change=self.warn
            )
            shots = ui.select(
                shot_choices(self.t),
                value=5 if index == 2 else 0,
                label=self.t("playground.shots"),
                on_change=self.warn,
            )
            shots.props("outlined dense options-dense")
        return model, shots, html.show("").classes("muted small")

    def _learned_by(self, file_id: str, names: Iterable[str]) -> list[str]:
        """Those of the models that were trained on the file, or on one of the same content."""
        file, known = self.files.known[file_id], self.models.known
        return [name for name in dict.fromkeys(names) if name in known and known[name].learned(file)]

    def chosen(self) -> list[Contestant]:
        every = (
            Contestant(model=str(model.value), shots=int(shots.value or 0))
            for model, shots, _ in self.contestants
            if model.value
        )
        return list(dict.fromkeys(every))

    def warn(self) -> None:
        """What makes the comparison say less than it seems to."""
        if not hasattr(self, "warnings"):
            return  # a field still being made
        chosen, t = self.chosen(), self.t
        told: list[str] = []
        if self.file.value and (learned := self._learned_by(self.file.value, [one.model for one in chosen])):
            told.append(t("compare.trained_on", names=", ".join(learned)))
        if any(one.shots for one in chosen) and self.file.value == self.shots_file.value:
            told.append(t("compare.shots_of_held_out"))
        told += [
            t("compare.same_weights", first=first.model, second=second.model)
            for first, second in itertools.combinations(chosen, 2)
            if first.shots == second.shots and second.model in self.models.known[first.model].same_weights
        ]
        for model, _, weights in self.contestants:
            known = self.models.known.get(str(model.value))
            weights.set_content(weights_line(known, t) if known else "")
        self.warnings.clear()
        with self.warnings:
            for sentence in told:
                blocks.note(sentence, kind="warn")

    async def start(self) -> None:
        chosen = self.chosen()
        if not self.file.value:
            notify(self.t("compare.no_file"), bad=True)
            return
        if len(chosen) < 2:
            notify(self.t("compare.too_few"), bad=True)
            return
        needs_shots = any(contestant.shots for contestant in chosen)
        plan = Plan(
            file_id=str(self.file.value),
            filename=self.files.name(str(self.file.value)),
            contestants=tuple(chosen),
            max_rows=int(self.rows.value or ROWS[0]),
            shots_file=str(self.shots_file.value) if needs_shots and self.shots_file.value else None,
        )

        try:
            made = await self.visit.result_of(running.start(self.visit.connection, plan))
        except running.Unaskable as problem:
            notify(self.t(problem.args[0]), bad=True)
            return
        if not isinstance(made, Failure):
            ui.navigate.to(f"/compare/{made}")


class Earlier:
    """Those that run and those that have ended, in pages; below them the files that earlier versions left."""

    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.last_id = {PATH: "", FILES: ""}

    async def draw(self) -> None:
        t = self.t
        first, files = await asyncio.gather(self.fetch(), self.fetch_files())
        blocks.show_heading(t("compare.earlier"))
        if not first[0] and not files[0]:
            html.show(Markup('<p class="muted">{}</p>').format(t("compare.none")))
            return
        columns = [Column(t("compare.file"), wide=True), Column(t("compare.result")), Column(t("jobs.created"))]
        if first[0]:
            PagedTable(self.visit, t("compare.earlier"), columns, first, self.fetch)
        if files[0]:
            PagedTable(self.visit, t("compare.as_files"), columns, files, self.fetch_files)

    async def fetch(self, _: str = "") -> Page:
        """After the last evaluation that was looked at, whether it is a comparison or another one."""
        get, rows, has_more = self.visit.connection.get, list[Row](), True
        while has_more and not rows:
            page = await get(PATH, order="desc", after=self.last_id[PATH], limit=PAGE)
            has_more = page["has_more"]
            if page["data"]:
                self.last_id[PATH] = page["data"][-1]["id"]
            marked = [each["id"] for each in page["data"] if running.MARK in (each["metadata"] or {})]
            found = await asyncio.gather(*(running.look(self.visit.connection, eval_id) for eval_id in marked))
            rows = [row for each in found if (row := self.row(each)) is not None]
        return rows, has_more

    def row(self, found: running.Running) -> Row | None:
        """None of an evaluation that is only marked like one: its metadata is anybody's to write."""
        t = self.t
        try:
            plan = found.plan
        except ValueError:
            return None
        unhappy = next(
            (run["status"] for run in found.runs if run["status"] not in ("completed", "queued")), "completed"
        )
        state = html.status_chip(unhappy, t) if found.is_over else html.progress(found.done, found.total, t)
        link = html.link(f"{BASE}/compare/{found.id}", html.model_name(plan.filename))
        models = " · ".join(contestant.label for contestant in plan.contestants)
        return Row(found.id, [html.two_lines(link, models), state, html.when(found.evaluation["created_at"], t)])

    async def fetch_files(self, _: str = "") -> Page:
        """After the last file that was looked at, whether it is a comparison or only called like one."""
        page = await self.visit.connection.get(
            FILES, purpose=PURPOSE, search=PREFIX, after=self.last_id[FILES], limit=PAGE
        )
        if page["data"]:
            self.last_id[FILES] = page["data"][-1]["id"]
        rows = [self.file_row(file) for file in page["data"] if file["filename"].startswith(PREFIX)]
        return rows, page["has_more"]

    def file_row(self, file: dict[str, Any]) -> Row:
        return Row(
            file["id"],
            [
                html.link(f"{BASE}/compare/{file['id']}", file["filename"].removeprefix(PREFIX)),
                html.link(f"{BASE}/download/{file['id']}", self.t("action.download")),
                html.when(file["created_at"], self.t),
            ],
        )
