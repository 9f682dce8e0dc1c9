"""A field to drop or choose a file. The browser sends it to the dashboard with its progress shown."""

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from tunery.dashboard.components.report import show_report
from tunery.dashboard.visit import BASE
from tunery.domain.files import MAX_FILE_BYTES
from tunery.texts import Translator


class Drop(ui.element, component="drop.js"):
    """Calls `on_stored` with the stored file's `id`, `filename` and `bytes`. What is wrong with a file that was not
    taken stands below the field. A table leads to the page where its columns are chosen."""

    def __init__(
        self,
        t: Translator,
        label: str,
        on_stored: Callable[[dict[str, Any]], Awaitable[None] | None],
        *,
        purpose: str = "fine-tune",
        accept: str = ".jsonl,.json,.txt,.csv,.tsv,.xlsx,.parquet",
        hint: str = "",
    ) -> None:
        super().__init__()
        self._props["url"] = f"{BASE}/upload?purpose={purpose}"
        self._props["accept"] = accept
        self._props["max-bytes"] = MAX_FILE_BYTES
        self._props["texts"] = {
            "label": label,
            "choose": t("upload.choose"),
            "hint": hint or t("upload.hint"),
            "sending": t("upload.sending"),
            "storing": t("upload.storing"),
            "tooLarge": t("upload.too_large"),
            "lost": t("upload.lost"),
        }

        async def stored(event: GenericEventArguments) -> None:
            if event.args.get("is_table"):
                ui.navigate.to(f"/datasets/table/{event.args['id']}")
                return
            result = on_stored(event.args)
            if isinstance(result, Awaitable):
                await result

        async def refused(event: GenericEventArguments) -> None:
            self.report.clear()
            if event.args:
                with self.report:
                    show_report(event.args, t, with_advice=False)

        self.on("stored", stored)
        self.on("refused", refused)
        self.report = ui.element("div").classes("stack report-of-drop").props("aria-live=polite")
