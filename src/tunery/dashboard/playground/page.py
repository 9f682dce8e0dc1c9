"""Up to three models side by side on one conversation, each answer with its tokens, time and cost."""

import asyncio
from typing import Any

from nicegui import ui

from tunery.dashboard.components import blocks, code, html
from tunery.dashboard.components.choices import FIRST, MAX_HELD_BYTES, Files, Models, weights_line
from tunery.dashboard.files.examples import save_example
from tunery.dashboard.models import Model, list_models
from tunery.dashboard.playground.lane import Lane, Parameters
from tunery.dashboard.visit import Visit, notify

MAX_LANES = 3
DRAFT = "playground"


async def build(visit: Visit) -> None:
    files = Files(visit, max_bytes=MAX_HELD_BYTES)
    listed, _ = await asyncio.gather(list_models(visit.connection, limit=FIRST), files.find())
    models = Models(visit, listed)
    for name in dict.fromkeys([*visit.query("models").split("|"), *_kept_models(visit.load_draft(DRAFT))]):
        if name and name not in models.known:
            await models.find(name)
    Playground(visit, models, files).draw()


def _kept_models(draft: dict[str, Any]) -> list[str]:
    return [lane["model"] for lane in draft.get("lanes", [])]


class Playground:
    def __init__(self, visit: Visit, found: Models, files: Files) -> None:
        self.visit, self.t = visit, visit.t
        self.found, self.files = found, files
        self.lanes: list[Lane] = []
        self.draft = visit.load_draft(DRAFT)

    def draw(self) -> None:
        t = self.t
        with ui.element("div").classes("heading"):
            blocks.show_title(t("playground.title"), t("playground.subtitle"))
            with ui.element("div").classes("buttons"):
                self.add = blocks.button(t("playground.add"), lambda: self.add_lane(self._next_model()), symbol="add")
                blocks.button(t("playground.code"), self.show_code, symbol="code")
                blocks.button(t("playground.clear"), self.clear, symbol="restart_alt")
        with blocks.panel():
            self.system = ui.textarea(t("playground.system"), value=self.draft.get("system", ""))
            self.system.props("outlined dense autogrow input-class=grow").on_value_change(self.keep)
            with ui.element("div").classes("fields"):
                self.temperature = _number(t("playground.temperature"), 0.0, low=0, high=2, step=0.1)
                self.max_tokens = _number(t("playground.max_tokens"), 256, low=1, high=8192, step=1)
                self.top_p = _number(t("playground.top_p"), 1.0, low=0, high=1, step=0.05)
                self.seed = _number(t("create.seed"), None, low=0, high=2**31 - 1, step=1)
        self.arena = ui.element("div").classes("arena")
        for model in self._first_models():
            self.add_lane(model)
        with ui.element("div").classes("composer"):
            self.prompt = ui.textarea(t("playground.prompt"), value=self.draft.get("prompt", ""))
            self.prompt.props("outlined dense autogrow rows=1 autofocus").on_value_change(self.keep)
            self.prompt.on("keydown.enter.exact.prevent", self.send)
            self.button = blocks.button(t("playground.send"), self.send, primary=True, symbol="send")
        self.restore()

    @property
    def models(self) -> dict[str, Model]:
        return self.found.known

    def _first_models(self) -> list[str]:
        wanted = [name for name in self.visit.query("models").split("|") if name in self.models]
        kept = [name for name in _kept_models(self.draft) if name in self.models]
        newest = [model.name for model in self.models.values() if model.kind != "base"][:1]
        if wanted or kept:
            return (wanted or kept)[:MAX_LANES]
        bases = [self.models[name].base for name in newest] or list(self.models)[:1]
        return bases + newest

    def _next_model(self) -> str:
        used = {lane.model for lane in self.lanes}
        return next((name for name in self.models if name not in used), next(iter(self.models)))

    def add_lane(self, model: str) -> None:
        if len(self.lanes) < MAX_LANES:
            with self.arena:
                self.lanes.append(Lane(self.visit, self.found, self.files, model, self))
        self.add.set_visibility(len(self.lanes) < MAX_LANES)

    def remove_lane(self, lane: Lane) -> None:
        self.lanes.remove(lane)
        lane.element.delete()
        self.add.set_visibility(True)
        self.keep()

    @property
    def parameters(self) -> Parameters:
        seed = self.seed.value
        return Parameters(
            system=(self.system.value or "").strip(),
            temperature=float(self.temperature.value or 0),
            max_tokens=int(self.max_tokens.value or 256),
            top_p=float(1 if self.top_p.value is None else self.top_p.value),
            seed=None if seed is None else int(seed),
        )

    async def send(self) -> None:
        text = (self.prompt.value or "").strip()
        if not text or any(lane.is_busy for lane in self.lanes):
            return
        self.prompt.value = ""
        await asyncio.gather(*(lane.ask(text, self.parameters) for lane in self.lanes))
        self.keep()

    def clear(self) -> None:
        for lane in self.lanes:
            lane.clear()
        self.keep()

    def keep(self) -> None:
        """The conversation outlives a reload and a restart of the server."""
        self.visit.save_draft(
            DRAFT,
            {
                "system": self.system.value,
                "prompt": self.prompt.value,
                "lanes": [{"model": lane.model, "messages": lane.messages} for lane in self.lanes],
            },
        )

    def restore(self) -> None:
        if self.visit.query("models"):
            return
        for lane, kept in zip(self.lanes, self.draft.get("lanes", []), strict=False):
            lane.restore(kept["messages"])

    def show_code(self) -> None:
        lane = self.lanes[-1]
        messages = lane.full_prompt(self.parameters.system) or [{"role": "user", "content": "Hello"}]
        with blocks.dialog_box(self.t("playground.code")) as dialog:
            html.show(weights_line(self.models[lane.model], self.t)).classes("muted small")
            code.both_apis(self.t, self.visit.connection.address, lane.model, messages)
        dialog.open()

    def save_answer(self, messages: list[dict[str, Any]]) -> None:
        async def saved(file_id: str, filename: str) -> None:
            await self.files.fetch(file_id)
            notify(self.t("playground.saved", name=filename))

        system = self.parameters.system
        head = [{"role": "system", "content": system}] if system else []
        save_example(self.visit, head + messages, self.files, saved)


def _number(label: str, value: float | None, *, low: float, high: float, step: float) -> ui.number:
    return ui.number(label, value=value, min=low, max=high, step=step).props("outlined dense")
