"""One evaluation: its runs, and the rows of one of them, failing ones first; beside them those of another run."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import (
    FIRST,
    NOTHING,
    Choice,
    Files,
    Known,
    Models,
    known_models,
    with_weights,
)
from tunery.dashboard.components.conversation import conversation, message, raw_line, shortened, text_of
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.evals.parts import (
    EXPECTED,
    INPUT,
    PATH,
    criterion_names,
    may_change,
    num_graded,
    share,
    standing,
)
from tunery.dashboard.files.examples import save_example
from tunery.dashboard.models import list_models
from tunery.dashboard.visit import BASE, Visit, notify

RUNS = 50  # that are shown
PAGE = 20  # rows
ORDER = ("error", "fail", "pass")
FETCHED, MAX_OTHER = 100, 2_000  # rows of the other run: in one request, and at most
POLL_S = 2.0
Json = dict[str, Any]


async def build(visit: Visit) -> None:
    page = EvaluationPage(visit)
    await page.load()
    page.draw()
    await page.show_rows()


class EvaluationPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t
        self.path = f"{PATH}/{visit.param('eval_id')}"
        self.evaluation: Json = {}
        self.runs: list[Json] = []
        self.run: Json | None = None
        self.files = Files(visit)
        self.known: Known = NOTHING
        self.waiting: AsyncIterator[Json] | None = None
        self.num_shown = 0
        self.others: dict[int, Json] = {}  # rows of the other run, by their number

    async def load(self) -> None:
        self.evaluation, _ = await asyncio.gather(self.visit.connection.get(self.path), self.load_runs())

    async def load_runs(self) -> None:
        self.runs = (await self.visit.connection.get(f"{self.path}/runs", order="desc", limit=RUNS))["data"]
        self.known = await known_models(self.visit, [run["model"] for run in self.runs], self.known)
        known = {run["id"]: run for run in self.runs}
        wanted = self.visit.query("run_id")
        if wanted and wanted not in known:  # an old one
            known[wanted] = await self.visit.connection.get(f"{self.path}/runs/{wanted}")
        self.run = known[wanted] if wanted else next(iter(self.runs), None)
        self.against = known.get(self.visit.query("against"))

    # ---- what stands above the rows
    def draw(self) -> None:
        t, evaluation = self.t, self.evaluation
        with ui.element("div").classes("heading"):
            name = html.model_name(evaluation["name"] or evaluation["id"])
            html.show(Markup("<h1>{}</h1><p>{}</p>").format(name, evaluation["id"]))
            with ui.element("div").classes("buttons"):
                if any(run["data_source"].get("model") for run in self.runs):
                    blocks.button(t("evals.run_again"), self.ask_model, symbol="play_arrow", primary=True)
                self.cancel = blocks.button(t("evals.cancel"), self.end, symbol="stop")
                title, text = (
                    t("evals.delete_title", name=evaluation["name"] or evaluation["id"]),
                    t("evals.delete_text"),
                )
                blocks.danger_button(t, t("action.delete"), self.delete, title=title, text=text)
        self.told = ui.element("div").classes("stack")
        self.tiles = html.show("").classes("tiles")
        with ui.element("div").classes("columns"):
            with blocks.panel(t("evals.criteria")):
                self.criteria = html.show("")
            with blocks.panel(t("evals.runs")):
                columns = [
                    Column(t("jobs.model"), wide=True),
                    Column(t("evals.passed"), numeric=True),
                    Column(t("jobs.created")),
                    Column(t("action.open")),
                ]
                self.run_table = Table(t("evals.runs"), columns)
        blocks.show_heading(t("evals.rows"))
        self.list = ui.element("div").classes("stack")
        self.nothing = ui.label("").classes("muted")
        self.more = blocks.button(t("action.more"), self.more_rows)
        self.show()
        self.poll = Poll(self.refresh, every_s=POLL_S)
        if not any(map(may_change, self.runs)):
            self.poll.stop()

    def show(self) -> None:
        t, run = self.t, self.run
        self.cancel.visible = run is not None and may_change(run)
        self.run_table.update([self.run_row(each) for each in self.runs])
        self.criteria.set_content(html.facts(self.criterion_facts()))
        self.told.clear()
        if run is None:
            return
        if run["error"] and run["error"]["message"]:
            with self.told:
                blocks.note(t.word(run["error"], "message"), kind="bad")
        counts, usage = run["result_counts"], run["per_model_usage"]
        tokens = sum(each["total_tokens"] for each in usage)
        graded, passed = (
            t("evals.of_rows", n=f"{number:,}", total=f"{counts['total']:,}")
            for number in (num_graded(counts), counts["passed"])
        )
        self.tiles.set_content(
            html.tiles_markup(
                [
                    (t("jobs.status"), html.status_chip(run["status"], t), graded),
                    (t("evals.passed"), share(counts), passed),
                    (t("evals.failed"), html.number(counts["failed"]), ""),
                    (t("evals.errored"), html.number(counts["errored"]), t("evals.errored_text")),
                    (t("batches.tokens"), html.number(tokens), ", ".join(each["model_name"] for each in usage)),
                ]
            )
        )

    def criterion_facts(self) -> list[tuple[str, str | Markup]]:
        t = self.t
        found = {each["testing_criteria"]: each for each in (self.run or {}).get("per_testing_criteria_results", ())}
        return [
            (
                each.get("name") or each["type"],
                html.two_lines(
                    t("evals.counts", **{name: f"{counts[name]:,}" for name in ("passed", "failed", "errored")})
                    if (counts := found.get(each["id"]))
                    else html.DASH,
                    t.named("grader", each["type"]),
                ),
            )
            for each in self.evaluation["testing_criteria"]
        ]

    def run_row(self, run: Json) -> Row:
        t, shown = self.t, self.run or {}
        is_shown, against = run["id"] == shown.get("id"), (self.against or {}).get("id")
        here = f"{BASE}/evals/{self.evaluation['id']}?run_id="
        href = "" if is_shown else f"{here}{run['id']}"
        if run["model"]:
            name = with_weights(run["model"], self.known, t, href=href)
        else:
            name = html.link(href, t("evals.given_answers")) if href else t("evals.given_answers")
        beside = html.link(f"{here}{shown.get('id')}&against={run['id']}", t("evals.beside"))
        state = t("evals.shown") if is_shown else t("evals.shown_beside") if run["id"] == against else beside
        cells = [
            html.two_lines(name, html.status_chip(run["status"], t)),
            standing(run, t),
            html.when(run["created_at"], t),
        ]
        return Row(run["id"], [*cells, state])

    async def refresh(self) -> bool:
        """Whether to look again."""
        was_open = self.run is not None and may_change(self.run)
        if isinstance(await self.visit.ask(self.load_runs()), Failure):
            return True
        self.show()
        if was_open and self.run is not None and not may_change(self.run):
            await self.show_rows()
        return any(map(may_change, self.runs))

    # ---- its rows
    async def show_rows(self) -> None:
        """The first page, from the beginning."""
        self.list.clear()
        self.others, self.num_shown = {}, 0
        self.more.visible, self.nothing.text = False, ""
        if self.run is None:
            self.nothing.text = self.t("evals.no_runs")
            return
        if self.against is not None:
            others = await self.visit.ask(self.items_of(self.against["id"], "", MAX_OTHER))
            self.others = {} if isinstance(others, Failure) else {each["datasource_item_id"]: each for each in others}
        self.waiting = self.every_item(self.run["id"])
        await self.more_rows()
        if not list(self.list):
            self.nothing.text = self.t("evals.rows_to_come" if may_change(self.run) else "evals.no_rows_graded")

    async def items_of(self, run_id: str, status: str, most: int) -> list[Json]:
        found: list[Json] = []
        async for each in self.pages_of(run_id, status):
            found.append(each)
            if len(found) == most:
                break
        return found

    async def pages_of(self, run_id: str, status: str) -> AsyncIterator[Json]:
        after, has_more = "", True
        while has_more:
            path = f"{self.path}/runs/{run_id}/output_items"
            page = await self.visit.connection.get(path, status=status, after=after, limit=FETCHED)
            for each in page["data"]:
                yield each
            after, has_more = page["last_id"] or "", bool(page["has_more"])

    async def every_item(self, run_id: str) -> AsyncIterator[Json]:
        for status in ORDER:
            async for each in self.pages_of(run_id, status):
                yield each

    async def more_rows(self) -> None:
        async def fetch() -> list[Json]:
            assert self.waiting is not None
            found: list[Json] = []
            async for each in self.waiting:
                found.append(each)
                if len(found) == PAGE:
                    break
            return found

        rows = await self.visit.result_of(fetch())
        if isinstance(rows, Failure):
            return
        with self.list:
            for row in rows:
                with ui.element("div").classes("example"):
                    html.show(self.row(row))
                    blocks.button(self.t("evals.correct"), partial(self.correct, row), symbol="edit")
        self.num_shown += len(rows)
        self.more.visible = self.run is not None and self.num_shown < num_graded(self.run["result_counts"])

    def row(self, item: Json) -> Markup:
        t, other = self.t, self.others.get(item["datasource_item_id"])
        run, expected = self.run or {}, item["datasource_item"].get(EXPECTED)
        answers = [self.answer(run, item)]
        if self.against is not None and other is not None:
            answers.append(self.answer(self.against, other))
        asked = item["sample"].get("input") or item["datasource_item"].get(INPUT)
        known = conversation(asked, t, mark_trained=False) if asked else raw_line(text_of(item["datasource_item"]))
        return Markup('<div class="line"><span>{}</span><span>{}</span></div>{}{}<div class="{}">{}</div>').format(
            t("evals.row", n=f"{item['datasource_item_id'] + 1:,}"),
            html.status_chip(item["status"], t),
            known,
            "" if expected is None else message("expected", t("compare.expected"), shortened(text_of(expected))),
            "pair" if len(answers) > 1 else "conversation",
            Markup("").join(answers),
        )

    def answer(self, run: Mapping[str, Any], item: Json) -> Markup:
        """What the model said, and what each criterion says of it."""
        t, names, sample = self.t, criterion_names(self.evaluation), item["sample"]
        given = "\n".join(text_of(each.get("content")) for each in sample.get("output") or ())
        error = (sample.get("error") or {}).get("message") or ""
        said = Markup('<span class="bad-text">{}</span>').format(error) if error else shortened(given)
        results = Markup("").join(self.result(each, names) for each in item["results"])
        css = "assistant trained" if item["status"] == "pass" else "assistant"
        name = html.model_name(run.get("model") or t("evals.answer"))
        return Markup('<div>{}<ul class="results small">{}</ul></div>').format(message(css, name, said), results)

    def result(self, result: Json, names: Mapping[str, str]) -> Markup:
        t, error = self.t, result.get("error")
        state = "error" if error else "pass" if result["passed"] else "fail"
        told = html.model_name(error.get("message") or error["code"]) if error else html.number(result["score"])
        name = names.get(result["name"], result["name"])
        return Markup("<li>{} {} <span class='muted'>{}</span></li>").format(html.status_chip(state, t), name, told)

    # ---- what is done with it
    async def correct(self, item: Json) -> None:
        """A dialog with what the answer should have been."""
        asked = item["sample"].get("input") or item["datasource_item"].get(INPUT)
        if not isinstance(asked, list):
            notify(self.t("evals.nothing_asked"), bad=True)
            return
        if not self.files.known and isinstance(await self.visit.result_of(self.files.find()), Failure):
            return
        outputs = item["sample"].get("output") or [{}]
        expected = item["datasource_item"].get(EXPECTED) or outputs[-1].get("content")

        async def saved(file_id: str, filename: str) -> None:
            await self.files.fetch(file_id)
            notify(self.t("playground.saved", name=filename))

        answer = {"role": "assistant", "content": text_of(expected)}
        save_example(self.visit, [*asked, answer], self.files, saved)

    async def ask_model(self) -> None:
        """The rows of the newest run, answered by another model."""
        latest = next(run["data_source"] for run in self.runs if run["data_source"].get("model"))
        listed = await self.visit.result_of(list_models(self.visit.connection, limit=FIRST))
        if isinstance(listed, Failure):
            return
        models, t = Models(self.visit, listed), self.t
        with blocks.dialog_box(t("evals.run_again")) as dialog:
            ui.label(t("evals.run_again_text")).classes("muted")
            labels = models.labels()
            model = Choice(self.visit, t("jobs.model"), models.find, labels, value=next(iter(labels)))

            async def start() -> None:
                source = {**latest, "model": str(model.value)}
                begun = self.visit.connection.post(f"{self.path}/runs", {"data_source": source})
                run = await self.visit.result_of(begun)
                if not isinstance(run, Failure):
                    before = f"&against={self.run['id']}" if self.run else ""
                    ui.navigate.to(f"/evals/{self.evaluation['id']}?run_id={run['id']}{before}")

            with ui.element("div").classes("buttons end"):
                blocks.button(t("action.back"), dialog.close)
                blocks.button(t("evals.start"), start, primary=True)
        dialog.open()

    async def end(self) -> None:
        if self.run is not None:
            await self.visit.attempt(self.visit.connection.post(f"{self.path}/runs/{self.run['id']}/cancel"))
            await self.refresh()

    async def delete(self) -> None:
        if await self.visit.attempt(self.visit.connection.delete(self.path), done=self.t("action.deleted")):
            ui.navigate.to("/evals")
