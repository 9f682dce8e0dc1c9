"""One model in the playground: its conversation, its answer as it comes, and what that took."""

import time
from dataclasses import dataclass
from typing import Any, Protocol

from markupsafe import Markup
from nicegui import ui
from openai.types import CompletionUsage

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import Choice, Files, Models, weights_line
from tunery.dashboard.components.conversation import conversation
from tunery.dashboard.components.shots import shot_choices
from tunery.dashboard.connection import Failure
from tunery.dashboard.lines import few_shots
from tunery.dashboard.visit import Visit

SHOW_EVERY_S = 0.08


@dataclass(frozen=True)
class Parameters:
    system: str
    temperature: float
    max_tokens: int
    top_p: float
    seed: int | None


class Board(Protocol):
    """What a lane needs of the page it lies on."""

    def remove_lane(self, lane: "Lane") -> None: ...
    def save_answer(self, messages: list[dict[str, Any]]) -> None: ...
    def keep(self) -> None: ...


class Lane:
    def __init__(self, visit: Visit, found: Models, files: Files, model: str, board: Board) -> None:
        self.visit, self.t, self.found = visit, visit.t, found
        self.messages: list[dict[str, Any]] = []
        self.shots: list[dict[str, Any]] = []
        self.is_busy = False
        self.board = board
        with ui.element("section").classes("lane") as self.element:
            self._draw(files, model)

    def _draw(self, files: Files, model: str) -> None:
        t = self.t
        labels = self.found.labels()
        self.select = Choice(
            self.visit, t("jobs.model"), self.found.find, labels, value=model, on_change=self.choose_model
        )
        self.weights = html.show("").classes("muted small")
        with ui.element("div").classes("fields"):
            self.num_shots = ui.select(
                shot_choices(t), value=0, label=t("playground.shots"),
                on_change=self.load_shots,
            ).props("outlined dense options-dense")  # fmt: skip
            self.source = Choice(
                self.visit,
                t("playground.shots_from"),
                files.find,
                files.labels(),
                value=next(iter(files.known), None),
                on_change=self.load_shots,
            )
            self.source.bind_visibility_from(self.num_shots, "value", bool)
        self.view = html.show("").props("aria-live=polite")
        self.stats = html.show("").classes("stats")
        with ui.element("div").classes("buttons"):
            self.save = blocks.button(t("playground.save"), self.save_answer, symbol="playlist_add")
            self.save.visible = False
            blocks.button(t("playground.remove"), lambda: self.board.remove_lane(self), symbol="close")
        self.show_weights()

    def choose_model(self) -> None:
        self.show_weights()
        self.board.keep()

    def show_weights(self) -> None:
        model = self.found.known.get(self.model)
        self.weights.set_content(weights_line(model, self.t) if model else "")
        self.element.props["aria-label"] = self.t("playground.lane", name=self.model)
        self.element.update()

    @property
    def model(self) -> str:
        return str(self.select.value)

    def full_prompt(self, system: str) -> list[dict[str, Any]]:
        head = [{"role": "system", "content": system}] if system else []
        return head + self.shots + self.messages

    async def load_shots(self) -> None:
        """The first examples of a dataset, as turns before the conversation: few-shot prompting."""
        wanted, file_id = int(self.num_shots.value or 0), self.source.value
        self.shots = []
        if not wanted or not file_id:
            return
        file = await self.visit.result_of(self.visit.connection.client.files.content(file_id))
        if not isinstance(file, Failure):
            self.shots = few_shots(file.text, wanted)

    async def ask(self, text: str, parameters: Parameters) -> None:
        self.messages.append({"role": "user", "content": text})
        self.is_busy, self.save.visible = True, False
        self.stats.set_content("")
        try:
            told = await self.visit.ask(self._stream(parameters))
        finally:
            self.is_busy = False
        if isinstance(told, Failure):
            self.messages.pop()
            note = Markup('<div class="note bad" role="alert">{}<div>{}</div></div>')
            self._show(tail=note.format(html.icon("error"), told.message(self.t)))

    async def _stream(self, parameters: Parameters) -> None:
        started, first, shown, answer = time.perf_counter(), 0.0, 0.0, ""
        usage: CompletionUsage | None = None
        self._show(tail=_typing(""))
        request: dict[str, Any] = {
            "model": self.model,
            "messages": self.full_prompt(parameters.system),
            "temperature": parameters.temperature,
            "top_p": parameters.top_p,
            "seed": parameters.seed,
            "max_completion_tokens": parameters.max_tokens,
            "stream_options": {"include_usage": True},
        }
        stream = await self.visit.connection.client.chat.completions.create(stream=True, **request)
        async for chunk in stream:
            usage = chunk.usage or usage
            answer += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            first = first or time.perf_counter()
            if time.perf_counter() - shown > SHOW_EVERY_S:
                self._show(tail=_typing(answer))
                shown = time.perf_counter()
        self.messages.append({"role": "assistant", "content": answer})
        self._show()
        self.save.visible = True
        if usage is not None:
            self._show_stats(usage, first - started, time.perf_counter() - started)

    def _show(self, tail: str = "") -> None:
        self.view.set_content(conversation(self.messages, self.t, mark_trained=False) + tail)

    def _show_stats(self, usage: CompletionUsage, first_s: float, total_s: float) -> None:
        cached = (usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
        model, t = self.found.known[self.model], self.t
        parts = [
            t("playground.tokens", prompt=usage.prompt_tokens, cached=cached, completion=usage.completion_tokens),
            t("playground.time", first=f"{first_s:.2f}", total=f"{total_s:.2f}"),
            html.money(model.cost(usage), model.currency),
        ]
        self.stats.set_content(Markup("").join(Markup("<span>{}</span>").format(part) for part in parts))

    def save_answer(self) -> None:
        self.board.save_answer(list(self.messages))

    def restore(self, messages: list[dict[str, Any]]) -> None:
        self.messages = messages
        self.save.visible = bool(messages)
        self._show()

    def clear(self) -> None:
        self.restore([])
        self.stats.set_content("")


def _typing(answer: str) -> Markup:
    return Markup('<div class="message assistant"><div class="role">assistant</div>{}</div>').format(
        Markup('<div class="content typing">{}</div>').format(answer)
    )
