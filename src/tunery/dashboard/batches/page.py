"""Batches, the newest first, and how far each is: live without reloading."""

from typing import Any

from openai.types import Batch

from tunery.dashboard.batches.parts import counts, may_change, progress, time_left
from tunery.dashboard.components import blocks, code, html
from tunery.dashboard.components.choices import NOTHING, Known, known_models, with_weights
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import BASE, Visit

PAGE = 50
POLL_S = 2.0
REQUEST = """{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", \
"body": {"model": "gpt-4o-mini-2024-07-18", "messages": [{"role": "user", "content": "Spam? …"}]}}"""
COMMAND = "tunery batches create requests.jsonl --watch"


async def build(visit: Visit) -> None:
    page = BatchesPage(visit)
    first = await page.fetch()
    blocks.heading(visit.t("batches.title"), visit.t("batches.subtitle"))
    if first[0]:
        page.draw(first)
    else:
        show_how(visit)


def show_how(visit: Visit) -> None:
    """In place of the list: how a batch is made."""
    t = visit.t
    blocks.empty("layers", t("batches.empty"), t("batches.empty_text"))
    with blocks.panel(t("batches.how")):
        code.block(REQUEST, "json")
        code.tabs(t, {"Python": python(visit.connection.address), "Shell": f"{COMMAND}\n"})


def python(root: str) -> str:
    return (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{root}/v1", api_key="sk-…")\n'
        'file = client.files.create(file=open("requests.jsonl", "rb"), purpose="batch")\n'
        "batch = client.batches.create(\n"
        '    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"\n'
        ")\nprint(batch.id)\n"
    )


class BatchesPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.shown: list[Batch] = []
        self.known: Known = NOTHING

    async def fetch(self, after: str = "") -> tuple[list[Batch], bool]:
        more: dict[str, Any] = {"after": after} if after else {}
        page = await self.visit.connection.client.batches.list(limit=PAGE, **more)
        self.known = await known_models(self.visit, [batch.model for batch in page.data if batch.model], self.known)
        return page.data, bool(page.has_more)

    def draw(self, first: tuple[list[Batch], bool]) -> None:
        t = self.t
        self.shown, has_more = first
        columns = [
            Column(t("jobs.status")),
            Column(t("batches.batch"), wide=True),
            Column(t("jobs.model")),
            Column(t("job.progress")),
            Column(t("batches.requests"), numeric=True),
            Column(t("jobs.created")),
        ]
        self.table = Table(t("batches.title"), columns, [self.row(batch) for batch in self.shown])
        self.more = blocks.button(t("action.more"), self.load_more)
        self.more.visible = has_more
        self.poll = Poll(self.refresh, every_s=POLL_S)
        if not any(map(may_change, self.shown)):
            self.poll.stop()

    def row(self, batch: Batch) -> Row:
        t = self.t
        _, failed, total = counts(batch)
        number = html.number(total) if total else html.DASH
        return Row(
            batch.id,
            [
                html.status_chip(batch.status, t),
                html.two_lines(html.link(f"{BASE}/batches/{batch.id}", html.model_name(batch.id)), batch.endpoint),
                with_weights(batch.model, self.known, t) if batch.model else html.DASH,
                html.two_lines(progress(batch, t), time_left(batch, t)),
                html.two_lines(number, t("batches.num_failed", n=f"{failed:,}") if failed else ""),
                html.when(batch.created_at, t),
            ],
        )

    async def load_more(self) -> None:
        page = await self.visit.result_of(self.fetch(self.shown[-1].id))
        if not isinstance(page, Failure):
            self.shown += page[0]
            self.table.extend([self.row(batch) for batch in page[0]])
            self.more.visible = page[1]

    async def refresh(self) -> bool:
        """Only the newest page is asked for again: older ones have ended."""
        page = await self.visit.ask(self.fetch())
        if isinstance(page, Failure):
            return True
        newest = {batch.id for batch in page[0]}
        self.shown = page[0] + [batch for batch in self.shown if batch.id not in newest]
        self.table.update([self.row(batch) for batch in self.shown])
        return any(map(may_change, page[0]))
