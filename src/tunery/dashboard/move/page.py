"""Moving in from OpenAI: the parity reports that were made, and how to make the first one."""

import asyncio
from collections.abc import AsyncIterator

from markupsafe import Markup
from openai.types import FileObject

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import NOTHING, Known, known_models, with_weights
from tunery.dashboard.components.table import Column, Page, PagedTable, Row
from tunery.dashboard.move.reader import PREFIX, PURPOSE, NotAReport, read_head
from tunery.dashboard.visit import BASE, Visit
from tunery.domain.parity import Parity
from tunery.texts import Translator

PAGE = 20
LISTED = 1000  # files a request to the server: reports are picked out by their names
VERDICTS = {"yes": "yes", "no": "no", "not enough data": "unsure"}  # as the texts name them
CHIPS = {"yes": "succeeded", "no": "failed", "unsure": "paused"}
COMMANDS = {
    "inventory": "tunery migrate openai inventory",
    "import": "tunery migrate openai import",
    "capture": "tunery migrate openai capture OLD_MODEL heldout.jsonl --out old.golden.jsonl",
    "retrain": "tunery migrate openai retrain",
    "report": "tunery migrate openai report old.golden.jsonl NEW_MODEL",
    "switch": "tunery migrate openai switch OLD_MODEL NEW_MODEL",
}


async def build(visit: Visit) -> None:
    t = visit.t
    blocks.heading(t("move.title"), t("move.subtitle"))
    reports = ReportList(visit)
    first = await reports.fetch()
    if first[0]:
        reports.show(first)
        return
    blocks.empty("swap_horiz", t("move.empty"), t("move.empty_text"), action=command(COMMANDS["report"]))
    blocks.show_heading(t("move.steps"))
    blocks.steps(
        [(t(f"move.step_{name}"), t(f"move.step_{name}_text"), command(text)) for name, text in COMMANDS.items()]
    )


def command(text: str) -> Markup:
    return Markup('<code class="command">{}</code>').format(text)


def verdict_chip(verdict: str, t: Translator) -> Markup:
    name = VERDICTS[verdict]
    chip = Markup('<span class="chip {}"><span class="dot"></span>{}</span>')
    return chip.format(CHIPS[name], t(f"move.verdict_{name}"))


class ReportList:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.known: Known = NOTHING
        self.files = self._files()

    async def _files(self) -> AsyncIterator[FileObject]:
        """Newest first. Archived evals and comparisons have the same purpose."""
        async for file in self.visit.connection.client.files.list(purpose=PURPOSE, order="desc", limit=LISTED):
            if file.filename.startswith(PREFIX):
                yield file

    async def fetch(self, _: str = "") -> Page:
        """The next reports. Files that are something else are passed over."""
        found: list[Row] = []
        while len(found) < PAGE and (batch := await self._next_files(PAGE - len(found))):
            heads = await asyncio.gather(*(self._head(file) for file in batch))
            names = [one.model for head in heads if head is not None for one in (head.new, head.old)]
            self.known = await known_models(self.visit, names, self.known)
            found += [self._row(file.id, head) for file, head in zip(batch, heads, strict=True) if head is not None]
        return found, len(found) == PAGE

    async def _next_files(self, count: int) -> list[FileObject]:
        batch: list[FileObject] = []
        while len(batch) < count and (file := await anext(self.files, None)) is not None:
            batch.append(file)
        return batch

    async def _head(self, file: FileObject) -> Parity | None:
        try:
            return await read_head(self.visit.connection.client, file.id)
        except NotAReport:
            return None

    def show(self, first: Page) -> None:
        t = self.t
        columns = [
            Column(t("move.verdict")),
            Column(t("move.new"), wide=True),
            Column(t("move.old"), wide=True),
            Column(t("move.rows"), numeric=True),
            Column(t("move.score"), numeric=True),
            Column(t("jobs.created")),
        ]
        PagedTable(self.visit, t("move.reports"), columns, first, self.fetch)

    def _row(self, file_id: str, parity: Parity) -> Row:
        score = f"{100 * parity.old.score.mean:.1f} % → {100 * parity.new.score.mean:.1f} %"
        return Row(
            file_id,
            [
                verdict_chip(parity.decision.safe_to_switch, self.t),
                with_weights(parity.new.model, self.known, self.t, href=f"{BASE}/move/{file_id}"),
                with_weights(parity.old.model, self.known, self.t),
                html.number(parity.new.num_rows),
                score,
                html.when(parity.created_at, self.t),
            ],
        )
