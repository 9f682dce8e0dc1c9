"""The rows of a parity report: what was asked, and both answers side by side. Those that differ come first."""

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.conversation import conversation, message, shortened
from tunery.dashboard.move.reader import Parity, ParityRow, RowAnswer, read_part
from tunery.dashboard.visit import Visit

PAGE = 20


class RowList:
    def __init__(self, visit: Visit, file_id: str, parity: Parity, rows: list[ParityRow]) -> None:
        self.visit, self.t, self.file_id, self.parity, self.first = visit, visit.t, file_id, parity, rows
        self.shown = 0

    def draw(self) -> None:
        blocks.show_heading(self.t("compare.rows_title"))
        self.list = ui.element("div").classes("stack")
        self.more = blocks.button(self.t("action.more"), self.load_more)
        self.show(self.first)

    def show(self, rows: list[ParityRow]) -> None:
        self.shown += len(rows)
        with self.list:
            for row in rows:
                html.show(self.row(row)).classes("example")
        self.more.visible = bool(rows) and self.shown < self.parity.new.num_rows

    async def load_more(self) -> None:
        async def load() -> None:
            client = self.visit.connection.client
            self.show((await read_part(client, self.file_id, skip=self.shown, count=PAGE))[1])

        await self.visit.attempt(load())

    def row(self, row: ParityRow) -> Markup:
        t = self.t
        return Markup(
            '<div class="line"><span>{line}</span><span>{differs}</span></div>{prompt}{expected}'
            '<div class="pair">{old}{new}</div>'
        ).format(
            line=t("dataset.line", n=row.row),
            differs=t("compare.differs") if row.similarity < 1 else t("compare.same"),
            prompt=conversation(row.messages, t, mark_trained=False),
            expected=""
            if row.expected is None
            else message("expected", t("compare.expected"), shortened(row.expected)),
            old=self.answer(row.old, t("move.old"), is_right=self.is_right(row, row.old)),
            new=self.answer(row.new, t("move.new"), is_right=self.is_right(row, row.new)),
        )

    def is_right(self, row: ParityRow, answer: RowAnswer) -> bool:
        return self.parity.measure == "exact" and row.expected is not None and answer.score == 1

    def answer(self, answer: RowAnswer, name: str, *, is_right: bool) -> Markup:
        css, badge = ("assistant trained", "compare.exact") if is_right else ("assistant", "")
        if answer.failed:
            badge = "status.failed"
        mark = Markup('<span class="badge">{}</span>').format(self.t(badge)) if badge else ""
        return message(css, name, shortened(answer.text), mark)
