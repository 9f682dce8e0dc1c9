"""One batch: how far it is, what failed and why, what it made, and a training file of its answers."""

import json
from typing import Any

from markupsafe import Markup
from nicegui import ui
from openai import AsyncOpenAI
from openai.types import Batch

from tunery.dashboard.batches.parts import counts, may_change, progress, time_left
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import Known, known_models, with_weights
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import BASE, Visit
from tunery.domain.json_body import as_object
from tunery.texts import Translator

MAX_FAILED = 50  # lines that are shown
MAX_WHY = 1_000  # characters of one
MOMENTS = ("created_at", "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelled_at")


async def build(visit: Visit) -> None:
    batch = await visit.connection.client.batches.retrieve(visit.param("batch_id"))
    page = BatchPage(visit, batch, await known_models(visit, filter(None, [batch.model])))
    page.draw()
    await page.show_failed()


class BatchPage:
    def __init__(self, visit: Visit, batch: Batch, known: Known) -> None:
        self.visit, self.t, self.batch, self.known = visit, visit.t, batch, known

    def draw(self) -> None:
        t = self.t
        with ui.element("div").classes("heading"):
            self.title = html.show("")
            with ui.element("div").classes("buttons"):
                self.downloads = html.show("").classes("buttons")
                self.make = blocks.button(t("batches.make"), self.make_dataset, primary=True, symbol="playlist_add")
                title, text = t("batches.cancel_title"), t("batches.cancel_text")
                self.cancel = blocks.danger_button(t, t("batches.cancel"), self.end, title=title, text=text)
        self.told = ui.element("div").classes("stack").props("aria-live=polite")
        self.tiles = html.show("").classes("tiles")
        self.problems = html.show("")
        with blocks.panel(t("batches.failed_lines")) as self.failed_panel:
            columns = [Column("custom_id"), Column(t("batches.why"), wide=True)]
            self.failed = Table(t("batches.failed_lines"), columns)
            self.more_failed = ui.label("").classes("muted")
        self.failed_panel.visible = False
        with blocks.panel(t("job.details")):
            self.details = html.show("")
        self.show()
        self.poll = Poll(self.refresh)
        if not may_change(self.batch):
            self.poll.stop()

    def show(self) -> None:
        batch, t = self.batch, self.t
        answered, failed, total = counts(batch)
        self.title.set_content(
            Markup("<h1>{}</h1><p>{} {}</p>").format(
                html.model_name(batch.id), html.status_chip(batch.status, t), batch.endpoint
            )
        )
        files = ((batch.output_file_id, "batches.output"), (batch.error_file_id, "batches.errors"))
        links = [html.button_link(f"{BASE}/download/{id}", t(text), symbol="download") for id, text in files if id]
        self.downloads.set_content(Markup("").join(links))
        has_ended = not may_change(batch)
        self.make.visible = has_ended and bool(batch.output_file_id) and batch.endpoint != "/v1/embeddings"
        self.cancel.visible = batch.status in ("validating", "in_progress")
        usage = batch.usage
        tokens = f"{usage.input_tokens:,} + {usage.output_tokens:,}" if usage else html.DASH
        items: list[tuple[str, str | Markup, str]] = [
            (t("job.progress"), progress(batch, t), time_left(batch, t)),
            (t("batches.answered"), html.number(answered), t("batches.of", n=f"{total:,}") if total else ""),
            (t("batches.failed"), html.number(failed), ""),
            (t("batches.tokens"), tokens, t("batches.tokens_text")),
        ]
        self.tiles.set_content(html.tiles_markup(items))
        self.problems.set_content(self.problem_list())
        self.details.set_content(html.facts(self.facts()))

    def problem_list(self) -> Markup:
        """What is wrong with the file, when the batch failed."""
        line = Markup('<li>{}<span class="wrap">{}</span></li>')
        found = (self.batch.errors.data if self.batch.errors else None) or []
        lines = [
            line.format(
                f"{self.t('batches.line', n=f'{each.line:,}')} " if each.line else "",
                self.t.word(each.model_dump(), "message"),
            )
            for each in found
        ]
        return Markup('<ul class="problems">{}</ul>').format(Markup("").join(lines)) if lines else Markup()

    def facts(self) -> list[tuple[str, str | Markup]]:
        batch, t = self.batch, self.t
        moments = [(t(f"batches.{name}"), moment) for name in MOMENTS if (moment := getattr(batch, name, None))]
        moments += [(t("batches.expires_at"), batch.expires_at)] if may_change(batch) else []
        file = html.link(f"{BASE}/download/{batch.input_file_id}", html.model_name(batch.input_file_id))
        return [
            (t("jobs.model"), with_weights(batch.model, self.known, t) if batch.model else html.DASH),
            (t("batches.file"), file),
            *((name, html.when(moment, t)) for name, moment in moments),
            *((name, html.code(str(value))) for name, value in as_object(batch.metadata).items()),
        ]

    async def show_failed(self) -> None:
        """The first lines of the error file: their requests were refused, or never sent."""
        file_id = self.batch.error_file_id
        if file_id is None:
            return
        lines = await self.visit.result_of(first_lines(self.visit.connection.client, file_id, MAX_FAILED + 1))
        if isinstance(lines, Failure):
            return
        shown = lines[:MAX_FAILED]
        rows = [
            Row(str(n), [html.code(str(line.get("custom_id"))), html.model_name(why(line, self.t))])
            for n, line in enumerate(shown)
        ]
        self.failed.update(rows)
        self.more_failed.text = self.t("batches.more_failed", n=len(shown))
        self.more_failed.visible = len(lines) > MAX_FAILED
        self.failed_panel.visible = True

    async def refresh(self) -> bool:
        batch = await self.visit.ask(self.visit.connection.client.batches.retrieve(self.batch.id))
        if isinstance(batch, Failure):
            return True
        self.batch = batch
        self.show()
        if not may_change(batch):
            await self.show_failed()
        return may_change(batch)

    async def end(self) -> None:
        if await self.visit.attempt(self.visit.connection.client.batches.cancel(self.batch.id)):
            await self.refresh()

    async def make_dataset(self) -> None:
        """Prompt of the input's line, answer of the output's. What was left out is told before a job is created."""
        t, post = self.t, self.visit.connection.post
        made = await self.visit.result_of(post(f"/tunery/v1/batches/{self.batch.id}/dataset"))
        if isinstance(made, Failure):
            return
        file, left_out = made["file"], made["left_out"]
        reasons = " · ".join(f"{t('stored.problem_' + each['reason'])} ({each['count']:,})" for each in left_out)
        num_left_out = f"{sum(each['count'] for each in left_out):,}"
        more = f"{t('stored.left_out', n=num_left_out)} – {reasons}" if left_out else ""
        self.told.clear()
        with self.told:
            link = html.link(f"{BASE}/datasets/{file['id']}", html.model_name(file["filename"]))
            told = Markup("{} {} {}").format(link, t("batches.made", n=f"{made['num_rows']:,}"), more)
            job = html.button_link(f"{BASE}/jobs/new?file={file['id']}", t("jobs.create"), primary=True)
            blocks.note(Markup("<p>{}</p>{}").format(told, job), kind="good")


async def first_lines(client: AsyncOpenAI, file_id: str, most: int) -> list[dict[str, Any]]:
    """Of a JSONL file; no more of it is read."""
    found: list[dict[str, Any]] = []
    async with client.files.with_streaming_response.content(file_id) as content:
        async for line in content.iter_lines():
            if line.strip():
                found.append(as_object(json.loads(line)))
            if len(found) == most:
                break
    return found


def why(line: dict[str, Any], t: Translator) -> str:
    """What the answer says, or what ended the batch before the request was sent."""
    response = as_object(line.get("response"))
    error = as_object(line.get("error") or as_object(response.get("body")).get("error"))
    message = t.reword(str(error.get("message") or ""), line.get("text"))
    known = (response.get("status_code"), error.get("code"), message)
    return " · ".join(str(part) for part in known if part)[:MAX_WHY]
