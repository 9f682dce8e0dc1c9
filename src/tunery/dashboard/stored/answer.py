"""One stored answer in full: what was asked, with which tools, what came back, what it took."""

import json
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import Known, known_models, with_weights
from tunery.dashboard.components.conversation import MAX_MESSAGES, conversation, raw_line
from tunery.dashboard.stored.page import delete_button
from tunery.dashboard.stored.parts import APIS, DRAFT, PATH, state_cell, tokens_text
from tunery.dashboard.visit import Visit


async def build(visit: Visit) -> None:
    t, answer_id = visit.t, visit.param("answer_id")
    answer = await visit.connection.get(f"{PATH}/{answer_id}")

    async def gone() -> None:
        ui.navigate.to("/stored")

    def make_dataset() -> None:
        visit.save_draft(DRAFT, {"filters": {}, "ids": [answer_id]})
        ui.navigate.to("/stored/dataset")

    def download() -> None:
        ui.download.content(json.dumps(answer, ensure_ascii=False, indent=1).encode(), f"{answer_id}.json")

    with ui.element("div").classes("heading"):
        blocks.show_title(t("stored.answer"), answer_id)
        with ui.element("div").classes("buttons"):
            blocks.button(t("action.download"), download, symbol="download")
            delete_button(visit, answer, gone)
            blocks.button(t("stored.make"), make_dataset, primary=True, symbol="playlist_add_check")
    with blocks.panel():
        html.show(_facts(answer, visit, await known_models(visit, [answer["model"]])))
    if answer["error"]:
        blocks.note(answer["error"], kind="bad")
    if answer["tools"]:
        with blocks.panel(t("stored.tools")):
            for tool in answer["tools"]:
                html.show(raw_line(json.dumps(tool.get("function", tool), ensure_ascii=False)))
    with blocks.panel(t("stored.conversation")):
        Messages(visit, answer["messages"])
    with blocks.panel(t("stored.its_answer")):
        if answer["answer"]:
            html.show(conversation([answer["answer"]], t, mark_trained=False))
        else:
            ui.label(t("stored.problem_no_answer")).classes("muted")


class Messages:
    """Grows by MAX_MESSAGES with each press of the button below."""

    def __init__(self, visit: Visit, messages: list[dict[str, Any]]) -> None:
        self.t, self.rest = visit.t, messages
        self.list = ui.element("div").classes("stack")
        self.more = blocks.button(visit.t("action.more"), self.load_more)
        self.load_more()

    def load_more(self) -> None:
        with self.list:
            html.show(conversation(self.rest[:MAX_MESSAGES], self.t, mark_trained=False))
        self.rest = self.rest[MAX_MESSAGES:]
        self.more.visible = bool(self.rest)
        self.more.text = f"{self.t('action.more')} ({len(self.rest):,})"


def _facts(answer: dict[str, Any], visit: Visit, known: Known) -> Markup:
    t = visit.t
    labels = [f"{key}: {value}" for key, value in answer["metadata"].items()]
    return html.facts(
        [
            (t("jobs.model"), with_weights(answer["model"], known, t)),
            (t("jobs.status"), state_cell(answer, t)),
            (t("stored.api"), APIS[answer["api"]]),
            (t("audit.when"), html.when(answer["created_at"], t)),
            (t("stored.tokens"), tokens_text(answer["usage"], t)),
            (t("job.cost"), html.money(answer["cost"], answer["currency"])),
            (t("stored.metadata"), Markup("<br>").join(labels) or html.DASH),
        ]
    )
