"""Turning an answer, corrected, into one more example of a dataset: the way from a shortfall to better data."""

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from tunery.dashboard.components import blocks
from tunery.dashboard.files.examples import add_example
from tunery.dashboard.visit import Visit

NEW = ""
NEW_NAME = "examples.jsonl"


def save_example(
    visit: Visit,
    messages: list[dict[str, Any]],
    files: dict[str, str],
    on_saved: Callable[[str, str], Awaitable[None]],
) -> None:
    """A dialog with the last message, the assistant's answer, to be corrected."""
    t = visit.t
    with blocks.dialog_box(t("playground.save")) as dialog:
        ui.label(t("playground.save_text")).classes("muted")
        answer = ui.textarea(t("playground.answer"), value=messages[-1]["content"]).props("outlined autogrow")
        choices = {NEW: t("playground.new_dataset")} | files
        target = ui.select(choices, value=next(iter(files), NEW), label=t("playground.dataset")).props("outlined dense")
        name = ui.input(t("playground.new_name"), value=NEW_NAME).props("outlined dense")
        name.bind_visibility_from(target, "value", lambda value: value == NEW)

        async def save() -> None:
            example = [*messages[:-1], {"role": "assistant", "content": answer.value or ""}]
            stored: list[Any] = []

            async def store() -> None:
                new_name = (name.value or NEW_NAME).strip()
                stored.append(
                    await add_example(visit.connection, example, file_id=target.value or None, new_name=new_name)
                )

            if await visit.attempt(store()):
                dialog.close()
                await on_saved(stored[0].id, stored[0].filename)

        with ui.element("div").classes("buttons end"):
            blocks.button(t("action.back"), dialog.close)
            blocks.button(t("action.save"), save, primary=True)
    dialog.open()
