"""A training file made of stored answers: looked through, corrected, checked before it is saved, then on to a job."""

import asyncio
from functools import partial
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.checks import report_from
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.conversation import MAX_LINE, conversation
from tunery.dashboard.components.report import show_report, watch
from tunery.dashboard.connection import Failure
from tunery.dashboard.models import list_models, trainable
from tunery.dashboard.stored.parts import DRAFT, PATH, address, as_query, state_cell, wanted
from tunery.dashboard.visit import BASE, Visit
from tunery.texts import Translator

PAGE = 10
LAST = 4  # messages of a conversation that are shown; its own page has all
NAME = "answers.jsonl"
QUIET_S = 1.0  # after a change, before the file is checked again


async def build(visit: Visit) -> None:
    t, draft = visit.t, visit.load_draft(DRAFT)
    if not draft:
        blocks.heading(t("stored.dataset"))
        action = html.button_link(f"{BASE}/stored", t("stored.title"), primary=True)
        blocks.empty("playlist_add_check", t("stored.nothing_chosen"), t("stored.nothing_chosen_text"), action=action)
        return
    models = [model for model in trainable(await list_models(visit.connection, limit=1)) if model.kind == "base"]
    back = html.button_link(address(draft["filters"]), t("stored.back"), symbol="arrow_back")
    blocks.heading(t("stored.dataset"), t("stored.dataset_text"), actions=back)
    page = DatasetPage(visit, draft, {model.name: model.price for model in models})
    page.draw()
    await page.load_more()
    ui.timer(0, page.check, once=True)


class DatasetPage:
    def __init__(self, visit: Visit, draft: dict[str, Any], prices: dict[str, dict[str, Any] | None]) -> None:
        self.visit, self.t, self.prices = visit, visit.t, prices
        self.filters: dict[str, str] = draft["filters"]
        self.ids: list[str] | None = draft["ids"]
        self.without: dict[str, None] = dict.fromkeys(draft.get("without", []))
        self.corrections: dict[str, dict[str, Any]] = draft.get("corrections", {})
        self.num_shown, self.next = 0, ""
        self.checking: asyncio.Task[None] | None = None

    def draw(self) -> None:
        t = self.t
        with ui.element("div").classes("columns form"):
            with ui.element("div").classes("stack"):
                self.list = ui.element("div").classes("stack")
                self.more = blocks.button(t("action.more"), self.load_more)
            with blocks.panel(t("stored.before"), css="report"):
                names = list(self.prices)
                self.base = ui.select(names, value=names[0] if names else None, label=t("jobs.base"))
                self.base.props("outlined dense options-dense").on_value_change(self.recheck)
                self.report = ui.element("div").classes("stack").props("aria-live=polite")
                self.name = ui.input(t("playground.new_name"), value=NAME).props("outlined dense maxlength=255")
                self.save_button = blocks.button(t("stored.save"), self.save, primary=True, symbol="save")
                self.save_button.set_enabled(False)

    # ---- the answers
    async def load_more(self) -> None:
        found = await self.visit.result_of(self.fetch())
        if isinstance(found, Failure):
            return
        answers, has_more = found
        with self.list:
            for answer in answers:
                with ui.element("section").classes("example"):
                    Editor(self, answer).draw()
        self.more.visible = has_more
        if not (self.num_shown or has_more):
            with self.list:
                ui.label(self.t("stored.none")).classes("muted")

    async def fetch(self) -> tuple[list[dict[str, Any]], bool]:
        """The next ones in full."""
        connection = self.visit.connection
        if self.ids is not None:
            ids = self.ids[self.num_shown : self.num_shown + PAGE]
            has_more = len(self.ids) > self.num_shown + PAGE
        else:
            query = as_query(self.filters) | {"after": self.next, "limit": PAGE}
            page = await connection.get(PATH, **query)
            ids, self.next, has_more = [answer["id"] for answer in page["data"]], page["next"], page["has_more"]
        found = await asyncio.gather(*(self.visit.ask(connection.get(f"{PATH}/{answer_id}")) for answer_id in ids))
        self.num_shown += len(ids)
        return [answer for answer in found if not isinstance(answer, Failure)], has_more

    def change(self, answer_id: str, correction: dict[str, Any] | None, *, is_used: bool) -> None:
        self.without.pop(answer_id, None)
        self.corrections.pop(answer_id, None)
        if not is_used:
            self.without[answer_id] = None
        if correction:
            self.corrections[answer_id] = correction
        kept = {"filters": self.filters, "ids": self.ids, "without": list(self.without)}
        self.visit.save_draft(DRAFT, kept | {"corrections": self.corrections})
        self.recheck()

    # ---- the file
    def body(self) -> dict[str, Any]:
        chosen = wanted(self.filters) if self.ids is None else {"ids": self.ids}
        changed = {"without": list(self.without), "corrections": self.corrections}
        return chosen | changed | {"filename": (self.name.value or NAME).strip() or NAME}

    def recheck(self) -> None:
        """Only the latest state is checked, once it has been quiet."""
        if self.checking is not None:
            self.checking.cancel()
        self.save_button.set_enabled(False)
        self.checking = asyncio.ensure_future(self.check(QUIET_S))

    async def check(self, wait_s: float = 0.0) -> None:
        await asyncio.sleep(wait_s)
        body = self.body() | {"base": self.base.value}
        path = f"{PATH}/preview"
        report = await watch(self.visit, self.report, partial(report_from, self.visit.connection, path, body))
        if report is None:
            return
        with self.report:
            self.show(report)
        self.save_button.set_enabled(report["num_lines"] > 0)

    def show(self, report: dict[str, Any]) -> None:
        t, counts = self.t, report["token_counts"]
        price = self.prices.get(str(self.base.value))
        cost = html.DASH
        if price and counts:
            cost = html.money(counts["tokens"]["total"] * price["training"] / 1e6, price["currency"])
        num_left_out = sum(left["count"] for left in report["left_out"])
        html.tiles(
            [
                (t("stored.rows"), html.number(report["num_lines"]), t("stored.left_out", n=num_left_out)),
                (t("stored.price"), cost, t("create.cost_text")),
            ]
        )
        if report["left_out"]:
            reasons = [(t(f"stored.problem_{left['reason']}"), f"{left['count']:,}") for left in report["left_out"]]
            html.show(html.facts(list(reasons)))
        if report["num_lines"]:
            show_report(report, t)
        else:
            blocks.note(t("error.no_rows"), kind="warn")

    async def save(self) -> None:
        made = await self.visit.result_of(self.visit.connection.post(f"{PATH}/dataset", self.body()))
        if not isinstance(made, Failure):
            ui.navigate.to(f"/jobs/new?file={made['file']['id']}")


class Editor:
    """One answer to be looked through: used or left out, its words and its calls as they should have been."""

    def __init__(self, page: DatasetPage, answer: dict[str, Any]) -> None:
        self.page, self.t, self.answer, self.id = page, page.t, answer, answer["id"]
        self.message: dict[str, Any] = answer["answer"]
        corrected = page.corrections.get(self.id, {})
        self.words = _words(self.message)
        self.calls: list[dict[str, Any]] = self.message.get("tool_calls") or []
        self.now = corrected.get("content", self.words)
        self.field: ui.textarea | None = None
        self.arguments: list[ui.textarea] = []
        self.calls_now: list[dict[str, Any]] = corrected.get("tool_calls", self.calls)

    def draw(self) -> None:
        t, link = self.t, html.link(f"{BASE}/stored/{self.id}", self.id)
        html.show(
            Markup("<span>{}</span><span>{}</span>").format(link, html.when(self.answer["created_at"], t))
        ).classes("line")
        html.show(state_cell(self.answer, t))
        html.show(_shown(self.answer, t))
        self.used = ui.checkbox(t("stored.use"), value=self.id not in self.page.without, on_change=self.changed)
        if max(map(len, [self.words, *map(_arguments, self.calls)])) > MAX_LINE:
            html.show(conversation([self.message], t, mark_trained=False))
            ui.label(t("stored.too_long")).classes("muted small")
            return
        self.field = ui.textarea(t("playground.answer"), value=self.now, on_change=self.changed)
        self.field.props("outlined autogrow debounce=400")
        self.arguments = [self._arguments_field(call) for call in self.calls_now]

    def _arguments_field(self, call: dict[str, Any]) -> ui.textarea:
        label = self.t("stored.arguments", name=call.get("function", {}).get("name", ""))
        field = ui.textarea(label, value=_arguments(call), on_change=self.changed)
        return field.props("outlined autogrow debounce=400 input-class=mono")

    def changed(self) -> None:
        self.page.change(self.id, self.correction(), is_used=bool(self.used.value))

    def correction(self) -> dict[str, Any]:
        """What of the answer was changed."""
        correction: dict[str, Any] = {}
        if self.field is None:
            return correction
        if (self.field.value or "") != self.words:
            correction["content"] = self.field.value or ""
        calls = [
            {**call, "function": {**call.get("function", {}), "arguments": field.value or ""}}
            for call, field in zip(self.calls, self.arguments, strict=True)
        ]
        if calls != self.calls:
            correction["tool_calls"] = calls
        return correction


def _words(message: dict[str, Any]) -> str:
    content = message.get("content") or message.get("refusal") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text") or part.get("refusal") or "") for part in content)


def _arguments(call: dict[str, Any]) -> str:
    return str(call.get("function", {}).get("arguments", ""))


def _shown(answer: dict[str, Any], t: Translator) -> Markup:
    """The end of what was asked. What training will teach is below it, to be corrected."""
    hidden = max(0, len(answer["messages"]) - LAST)
    note = Markup('<p class="muted small">{}</p>').format(t("dataset.more", n=hidden)) if hidden else Markup()
    return Markup("{}{}").format(note, conversation(answer["messages"][-LAST:], t, mark_trained=False))
