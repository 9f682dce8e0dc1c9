"""Adding an example to a dataset. Files never change: the dataset with one more line is a new file of the same name."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui
from openai.types import FileObject

from tunery.dashboard.components import blocks
from tunery.dashboard.components.choices import Choice, Files
from tunery.dashboard.connection import Connection, Failure
from tunery.dashboard.visit import Visit
from tunery.domain.files import example_file

EXAMPLE_NAME = "marv.jsonl"
NEW = ""  # in place of a dataset to add to
NEW_NAME = "examples.jsonl"


async def upload_example(connection: Connection) -> FileObject:
    """The dataset of the three-step start."""
    content = example_file(EXAMPLE_NAME).read_bytes()
    return await connection.client.files.create(file=(EXAMPLE_NAME, content), purpose="fine-tune")


async def add_example(
    connection: Connection, messages: list[dict[str, Any]], *, file_id: str | None, new_name: str
) -> FileObject:
    """The file that now has the example as its last line: a successor of `file_id`, or a new one."""
    content, name = b"", new_name
    if file_id is not None:
        name = (await connection.client.files.retrieve(file_id)).filename
        content = (await connection.client.files.content(file_id)).content
    line = json.dumps({"messages": messages}, ensure_ascii=False).encode()
    grown = content.rstrip(b"\r\n") + b"\n" + line + b"\n" if content.strip() else line + b"\n"
    return await connection.client.files.create(file=(name, grown), purpose="fine-tune")


def save_example(
    visit: Visit,
    messages: list[dict[str, Any]],
    files: Files,
    on_saved: Callable[[str, str], Awaitable[None]],
) -> None:
    """A dialog with the last message, the assistant's answer: corrected, it becomes one more example of a dataset."""
    t = visit.t
    with blocks.dialog_box(t("playground.save")) as dialog:
        ui.label(t("playground.save_text")).classes("muted")
        answer = ui.textarea(t("playground.answer"), value=messages[-1]["content"]).props("outlined autogrow")
        new = {NEW: t("playground.new_dataset")}
        first = next(iter(files.known), NEW)
        target = Choice(visit, t("playground.dataset"), files.find, files.labels(), value=first, fixed=new)
        name = ui.input(t("playground.new_name"), value=NEW_NAME).props("outlined dense")
        name.bind_visibility_from(target, "value", lambda value: value == NEW)

        async def save() -> None:
            example = [*messages[:-1], {"role": "assistant", "content": answer.value or ""}]
            new_name = (name.value or NEW_NAME).strip()
            adding = add_example(visit.connection, example, file_id=target.value or None, new_name=new_name)
            stored = await visit.result_of(adding)
            if not isinstance(stored, Failure):
                dialog.close()
                await on_saved(stored.id, stored.filename)

        with ui.element("div").classes("buttons end"):
            blocks.button(t("action.back"), dialog.close)
            blocks.button(t("action.save"), save, primary=True)
    dialog.open()
