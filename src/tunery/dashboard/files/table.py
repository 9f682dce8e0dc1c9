"""A table on its way to a dataset: which columns are asked and answer, the conversations that they make, what is wrong
with its rows; then a training file, and on to a job."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from nicegui import ui
from openai import BadRequestError

from tunery.dashboard.checks import report_from
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.conversation import example
from tunery.dashboard.components.report import watch
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import Visit
from tunery.texts import Translator
from tunery.texts.amounts import size

PATH = "/tunery/v1/tables"
FIRST = 50  # rows that are looked at before all are
QUIET_S = 0.5  # after a change, before the table is read again
ROLES = ("user", "assistant", "system", "history", "context", "rejected")
NAMES = {
    "user": "table.question",
    "assistant": "table.answer",
    "system": "table.instructions",
    "history": "table.history",
    "context": "table.context",
    "rejected": "table.worse_answer",
}
ENCODINGS = {  # those that tables are saved in, by Python's names
    "utf-8-sig": "UTF-8",
    "cp932": "Shift-JIS",
    "euc_jp": "EUC-JP",
    "cp1252": "Windows-1252",
    "utf-16": "UTF-16",
    "gb18030": "GB 18030",
    "big5": "Big5",
    "cp949": "Korean (cp949)",
    "cp1251": "Cyrillic (Windows-1251)",
    "cp1253": "Greek (Windows-1253)",
}
SHOWN_CELL = 60  # characters of an example in a choice


async def build(visit: Visit) -> None:
    file = await visit.connection.client.files.retrieve(visit.param("file_id"))
    blocks.heading(file.filename, f"{visit.t('table.title')} · {size(file.bytes)}")
    page = TablePage(visit, file.id, file.filename)
    page.draw()
    ui.timer(0, page.recheck, once=True)  # a large table takes its time: the page is there before its rows


class TablePage:
    def __init__(self, visit: Visit, file_id: str, filename: str) -> None:
        self.visit, self.t, self.file_id = visit, visit.t, file_id
        self.draft_name = f"table-{file_id}"
        draft = visit.load_draft(self.draft_name)
        self.reading: dict[str, Any] = draft.get("reading", {})  # sheet, header_row, encoding, where they were chosen
        self.columns: dict[str, str] | None = draft.get("columns")  # None: guessed
        self.system: str = draft.get("system", "")
        self.filename: str = draft.get("filename") or f"{Path(filename).stem}-chat.jsonl"
        self.found: dict[str, Any] = {"sheet": "", "header_row": 0}
        self.is_filling = False  # by what the server found, not by the visitor
        self.checking: asyncio.Task[None] | None = None

    # ---- what is chosen
    def draw(self) -> None:
        t = self.t
        with ui.element("div").classes("columns form"):
            with ui.element("div").classes("stack"):
                with blocks.panel(t("table.columns")):
                    ui.label(t("table.about")).classes("muted small")
                    self.choices = {role: self._choice(t(NAMES[role])) for role in ROLES}
                    self.common = ui.textarea(t("table.system"), value=self.system, on_change=self.change)
                    self.common.props("outlined autogrow debounce=400")
                with blocks.panel(t("table.how")) as self.how:
                    self._draw_how()
                with blocks.panel():
                    self.name = ui.input(t("table.filename"), value=self.filename, on_change=self.keep)
                    self.name.props("outlined dense maxlength=255 debounce=400")
                    with ui.element("div").classes("buttons"):
                        self.on_to_job = blocks.button(
                            t("table.save_and_create"), self.save_for_job, primary=True, symbol="rocket_launch"
                        )
                        self.only_save = blocks.button(t("table.save"), self.save, symbol="save")
                    self.saving = ui.element("div").classes("stack").props("aria-live=polite")
            with blocks.panel(t("table.preview"), css="report"):
                self.progress = ui.element("div").classes("stack").props("aria-live=polite")
                self.result = ui.element("div").classes("stack").props("aria-live=polite")
        self.allow(False)

    def _draw_how(self) -> None:
        t = self.t
        self.sheet = ui.select([], label=t("table.sheet"), on_change=self.read_anew)
        self.sheet.props("outlined dense options-dense")
        self.header_row = ui.number(t("table.header_row"), min=1, max=1_000, step=1, on_change=self.read_anew)
        self.header_row.props("outlined dense debounce=400")
        self.encoding = ui.select(
            {"": t("table.other_encoding"), **ENCODINGS},
            value=self.reading.get("encoding", ""),
            label=t("table.encoding"),
            on_change=self.read_anew,
        )
        self.encoding.props("outlined dense options-dense")
        for field in (self.sheet, self.header_row, self.encoding):
            field.visible = False
        self.how.visible = False

    def _choice(self, label: str) -> ui.select:
        select = ui.select({"": self.t("table.no_column_chosen")}, value="", label=label, on_change=self.change)
        return select.props("outlined dense options-dense")

    def change(self) -> None:
        """Another column, or other instructions."""
        if self.is_filling:
            return
        self.columns = {role: str(choice.value or "") for role, choice in self.choices.items()}
        self.system = self.common.value or ""
        self.recheck_soon()

    def read_anew(self) -> None:
        """Another sheet, header or encoding: the columns are others too."""
        if self.is_filling:
            return
        header = int(self.header_row.value or 0)
        is_chosen = header != self.found["header_row"] or "header_row" in self.reading
        self.columns, self.reading = None, {"sheet": self.sheet.value or "", "encoding": self.encoding.value or ""}
        if is_chosen and self.reading["sheet"] == self.found["sheet"]:
            self.reading["header_row"] = header
        self.recheck_soon()

    def keep(self) -> None:
        self.filename = (self.name.value or "").strip()
        kept = {"reading": self.reading, "columns": self.columns, "system": self.system, "filename": self.filename}
        self.visit.save_draft(self.draft_name, kept)

    def body(self) -> dict[str, Any]:
        return {"file": self.file_id, **self.reading, "columns": self.columns, "system": self.system}

    # ---- what it makes
    def recheck_soon(self) -> None:
        self.keep()
        self.recheck(QUIET_S)

    def recheck(self, wait_s: float = 0.0) -> None:
        """Only the latest choice is looked at: an older look that still runs is dropped."""
        if self.checking is not None:
            self.checking.cancel()
        self.allow(False)
        self.checking = asyncio.ensure_future(self.check(wait_s))

    async def check(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        chosen = self.columns or {}
        if bool(chosen.get("user")) != bool(chosen.get("assistant")) and not chosen.get("rejected"):
            self._say(self.t("table.choose"))
            return
        found = await self.visit.ask(self.visit.connection.post(f"{PATH}/preview", {**self.body(), "limit": FIRST}))
        if isinstance(found, Failure):
            is_encoding = isinstance(found.error, BadRequestError) and found.error.param == "encoding"
            self.encoding.visible = self.encoding.visible or is_encoding
            self.how.visible = self.how.visible or is_encoding
            self._say(found.message(self.t), kind="bad")
            return
        self.fill(found)
        self.show(found)
        if found["mapping"] is not None and not found["is_whole"]:
            body = self.body() | {"stream": True}
            whole = await watch(
                self.visit, self.progress, partial(report_from, self.visit.connection, f"{PATH}/preview", body)
            )
            if whole is None:
                return
            found = whole
            self.show(found)
        self.allow(found["mapping"] is not None and found["num_examples"] > 0)

    def allow(self, may_save: bool) -> None:
        self.on_to_job.set_enabled(may_save)
        self.only_save.set_enabled(may_save)

    def _say(self, text: str, *, kind: str = "warn") -> None:
        self.progress.clear()
        self.result.clear()
        with self.result:
            blocks.note(text, kind=kind)

    def fill(self, found: dict[str, Any]) -> None:
        """Into the fields what was found out."""
        self.is_filling, self.found = True, found
        none = {"": self.t("table.no_column_chosen")}
        options = none | {column["name"]: _column_label(column) for column in found["columns"]}
        mapping = found["mapping"] or self.columns or {}
        for role, choice in self.choices.items():
            value = mapping.get(role, "")
            choice.set_options(options, value=value if value in options else "")
        self.sheet.set_options(found["sheets"], value=found["sheet"] or None)
        self.sheet.visible = len(found["sheets"]) > 1
        self.header_row.value = found["header_row"] or None
        self.header_row.visible = bool(found["sheets"]) or found["kind"] in ("csv", "tsv")
        self.encoding.visible = bool(found["encoding"])
        name = ENCODINGS.get(found["encoding"], found["encoding"])
        self.encoding.props(f'hint="{self.t("table.encoding_found", encoding=name)}"' if name else "")
        self.how.visible = self.sheet.visible or self.header_row.visible or self.encoding.visible
        self.is_filling = False

    def show(self, found: dict[str, Any]) -> None:
        t = self.t
        self.result.clear()
        with self.result:
            for note in found["notes"]:
                blocks.note(t.word(note, "message"), kind="warn")
            if found["mapping"] is None:
                blocks.note(t("table.choose"), kind="warn")
            else:
                if not any(found["mapping"].values()):
                    blocks.note(t("table.whole"))
                self._tiles(found)
            for row in found["rows"]:
                html.show(shown_row(row, t)).classes("example")
            if found["problems"]:
                blocks.show_heading(t("table.problem_rows"))
            for row in found["problems"]:
                html.show(shown_row(row, t)).classes("example")
            shown = len(found["problems"]) + sum(bool(row["problems"]) for row in found["rows"])
            total = found["num_left_out"] + found["num_errors"]
            if total > shown:
                ui.label(t("table.more_problems", shown=f"{shown:,}", total=f"{total:,}")).classes("muted small")

    def _tiles(self, found: dict[str, Any]) -> None:
        t = self.t
        rows = t("table.rows_text", n=f"{found['num_rows']:,}") if found["is_whole"] else t("table.looked")
        html.tiles(
            [
                (t("table.rows"), html.number(found["num_examples"]), rows),
                (t("table.left_out"), html.number(found["num_left_out"]), t("table.left_out_text")),
                (t("table.problems"), html.number(found["num_errors"]), t("table.problems_text")),
            ]
        )

    # ---- the training file
    async def save(self) -> None:
        if file_id := await self._store():
            ui.navigate.to(f"/datasets/{file_id}")

    async def save_for_job(self) -> None:
        if file_id := await self._store():
            ui.navigate.to(f"/jobs/new?file={file_id}")

    async def _store(self) -> str | None:
        self.keep()
        body = self.body() | {"filename": self.filename, "stream": True}
        made = await watch(
            self.visit, self.saving, partial(report_from, self.visit.connection, f"{PATH}/dataset", body)
        )
        return None if made is None else made["created"]["id"]


def _column_label(column: dict[str, Any]) -> str:
    first = " ".join((column["examples"] or [""])[0].split())[:SHOWN_CELL]
    return f"{column['name']} · {first}" if first else column["name"]


def shown_row(row: dict[str, Any], t: Translator) -> Markup:
    """What a row of the table makes, what is wrong with it beside it."""
    problems = Markup("").join(Markup("<li>{}</li>").format(t.word(it, "message")) for it in row["problems"][:5])
    made = example(row["example"], t) if row["example"] is not None else _cells(row.get("cells") or {})
    is_left_out = row["example"] is None and row["problems"]
    return Markup('<div class="line"><span>{}</span><span>{}</span></div>{}{}').format(
        t("table.row", n=f"{row['row']:,}"),
        t("table.left_out_row") if is_left_out else "",
        Markup('<ul class="problems small">{}</ul>').format(problems) if problems else "",
        made,
    )


def _cells(cells: dict[str, str]) -> Markup:
    return html.facts([(name, value or html.DASH) for name, value in cells.items()])
