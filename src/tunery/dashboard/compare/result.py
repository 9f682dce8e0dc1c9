"""One comparison: the verdict in a sentence, the figures, what fine-tuning saves in tokens and money, and the rows, the
differing ones first."""

from collections.abc import Callable
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.compare import running
from tunery.dashboard.comparison import PREFIX, Comparison, Plan, Verdict, read_result, verdicts
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.announce import Announcer
from tunery.dashboard.components.chart import bars
from tunery.dashboard.components.choices import MAX_HELD_BYTES
from tunery.dashboard.components.conversation import answer, answered, text_of
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.shots import prompt_text
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.evals.parts import PATH
from tunery.dashboard.visit import BASE, Visit

SAVING = '<p class="tile"><span class="value">{}</span><br><span class="name">{}</span></p>'
PAGE = 20


async def build(visit: Visit) -> None:
    t, comparison_id = visit.t, visit.param("file_id")
    if comparison_id.startswith("file-"):
        kept = await _stored(visit, comparison_id)
        if kept is None:
            _nothing(visit)
            return
        blocks.heading(t("compare.title"), t("compare.of", file=kept.plan.filename, n=kept.plan.max_rows))
        ResultView(visit, kept).draw()
        return
    found = await running.look(visit.connection, comparison_id)
    try:
        plan = found.plan
    except ValueError:
        _nothing(visit)
        return
    page = RunningPage(visit, found, plan)
    page.draw()
    await page.show()


def _nothing(visit: Visit) -> None:
    t = visit.t
    blocks.heading(t("compare.title"))
    action = html.button_link(f"{BASE}/compare", t("compare.again"), primary=True)
    blocks.empty("balance", t("compare.not_result"), t("compare.not_result_text"), action=action)


async def _stored(visit: Visit, file_id: str) -> Comparison | None:
    """None when the file is something else."""
    files = visit.connection.client.files
    if (await files.retrieve(file_id)).bytes > MAX_HELD_BYTES:
        return None
    try:
        return read_result(file_id, (await files.content(file_id)).text)
    except ValueError:
        return None


class RunningPage:
    """One that is carried out, or has been: how far it is, and what came of it."""

    def __init__(self, visit: Visit, found: running.Running, plan: Plan) -> None:
        self.visit, self.t, self.found, self.plan = visit, visit.t, found, plan
        self.comparison: Comparison | None = None

    def draw(self) -> None:
        t, plan = self.t, self.plan
        with ui.element("div").classes("heading"):
            blocks.show_title(t("compare.title"), t("compare.of", file=plan.filename, n=plan.max_rows))
            with ui.element("div").classes("buttons"):
                self.cancel = blocks.button(t("evals.cancel"), self.end, symbol="stop")
                self.download = blocks.button(t("action.download"), self.save, symbol="download")
                html.show(html.button_link(f"{BASE}/evals/{self.found.id}", t("compare.as_evaluation"), symbol="rule"))
                title, text = t("compare.delete_title"), t("evals.delete_text")
                blocks.danger_button(t, t("action.delete"), self.delete, title=title, text=text)
        ui.label(t("compare.link_text")).classes("muted small")
        self.told = ui.element("div").classes("stack")
        with blocks.panel() as self.waiting:
            ui.label(t("compare.running")).classes("muted")
            self.progress = html.show("").classes("big-progress")
        self.announcer = Announcer(t)
        self.area = ui.element("div").classes("stack")
        self.poll = Poll(self.look)
        if self.found.is_over:
            self.poll.stop()

    async def look(self) -> bool:
        """Whether to look again."""
        found = await self.visit.ask(running.look(self.visit.connection, self.found.id))
        if isinstance(found, Failure):
            if found.status == 404:
                self.told.clear()
                with self.told:
                    blocks.note(self.t("compare.gone"), kind="warn")
            return found.status != 404
        self.found = found
        await self.show()
        return not found.is_over

    async def show(self) -> None:
        found, t = self.found, self.t
        self.cancel.visible = self.waiting.visible = not found.is_over
        self.download.visible = found.is_over
        left = found.seconds_left()
        remaining = t("job.left", time=html.duration(left, t)) if left is not None else ""
        counted = t("compare.done", done=html.number(found.done), total=html.number(found.total or None))
        progress = Markup('{} <span class="muted">{} {}</span>').format(
            html.progress(found.done, found.total, t), counted if found.total else t("compare.queued"), remaining
        )
        self.progress.set_content(progress)
        self.announcer.tell(found.done, found.total, counted, end=t("compare.ended") if found.is_over else "")
        if found.is_over and self.comparison is None:
            await self.show_result()

    async def show_result(self) -> None:
        came = await self.visit.result_of(running.result(self.visit.connection, self.found))
        if isinstance(came, Failure):
            return
        self.comparison = came
        self.told.clear()
        with self.told:
            for run in self.found.runs:
                if run["error"] and run["error"]["message"]:
                    blocks.note(f"{run['name']}: {self.t.word(run['error'], 'message')}", kind="bad")
            if not self.found.is_whole:
                blocks.note(self.t("compare.until_then_text", n=html.number(len(came.rows))), kind="warn")
        with self.area:
            ResultView(self.visit, came).draw()

    async def end(self) -> None:
        if await self.visit.attempt(running.cancel(self.visit.connection, self.found)):
            await self.look()

    async def delete(self) -> None:
        path = f"{PATH}/{self.found.id}"
        if await self.visit.attempt(self.visit.connection.delete(path), done=self.t("action.deleted")):
            ui.navigate.to("/compare")

    def save(self) -> None:
        if self.comparison is not None:
            name = f"{PREFIX}{self.plan.filename.rsplit('.', 1)[0]}.jsonl"
            ui.download.content(self.comparison.as_file(), name, "application/jsonl")


class ResultView:
    """The sentence, the figures, and the rows, those that differ first."""

    def __init__(self, visit: Visit, comparison: Comparison) -> None:
        self.visit, self.t, self.comparison = visit, visit.t, comparison
        self.shown = 0

    def draw(self) -> None:
        comparison = self.comparison
        if not comparison.summary:  # the file of somebody who left it out
            blocks.note(self.t("compare.no_figures"))
        else:
            for verdict in verdicts(comparison):
                self.draw_verdict(verdict)
            self.draw_summary()
        if comparison.rows:
            self.draw_rows(self.t("compare.rows_title"))

    def draw_verdict(self, verdict: Verdict) -> None:
        t, contestants = self.t, self.comparison.plan.contestants
        scale, unit = (100, " %") if verdict.measure == "is_exact" else (1, "")
        digits = 1 if scale == 100 else 2
        names = {"mine": contestants[0].short_label, "theirs": contestants[verdict.other].short_label}
        if contestants[0].short_label == contestants[verdict.other].short_label:
            names = {"mine": contestants[0].label, "theirs": contestants[verdict.other].label}
        figures = {
            "my_share": f"{scale * verdict.mine:.{digits}f}{unit}",
            "their_share": f"{scale * verdict.theirs:.{digits}f}{unit}",
            "low": f"{scale * verdict.difference.low:+.{digits}f}".replace("-", "−"),
            "high": f"{scale * verdict.difference.high:+.{digits}f}".replace("-", "−"),
            "n": html.number(verdict.rows),
        }
        told = t(f"compare.verdict_{verdict.measure}", **names, **figures)
        meant = t(f"compare.verdict_{verdict.side}", **names, **figures)
        kind = {"better": "good", "worse": "bad", "unclear": "warn"}[verdict.side]
        lead = Markup('<p class="lead">{}</p><p>{}</p>').format(told, meant)
        blocks.note(lead, kind="info" if kind == "bad" else kind)

    def draw_summary(self) -> None:
        t, summary = self.t, self.comparison.summary
        self.summary_table(summary)
        with ui.element("div").classes("columns"):
            with blocks.panel(t("compare.tokens_per_question")):
                labels = [contestant.short_label for contestant in self.comparison.plan.contestants]
                fresh = [round(item["prompt_tokens"] - item["cached_tokens"], 1) for item in summary]
                stacks = {
                    t("usage.input"): fresh,
                    t("usage.cached"): [round(item["cached_tokens"], 1) for item in summary],
                    t("usage.output"): [round(item["completion_tokens"], 1) for item in summary],
                }
                bars(t, t("compare.tokens_per_question"), labels, stacks)
            with blocks.panel(t("compare.saving")):
                html.show(self.savings(summary))

    def draw_rows(self, title: str) -> None:
        blocks.show_heading(title)
        self.list = ui.element("div").classes("stack")
        self.more = blocks.button(self.t("action.more"), self.show_rows)
        self.show_rows()

    def summary_table(self, summary: list[dict[str, Any]]) -> None:
        t = self.t

        def percent(share: float) -> str:
            return f"{100 * share:.1f} %"

        shown: dict[str, tuple[str, Callable[[Any], str]]] = {
            "exact": ("exact", percent),
            "similarity": ("similarity", lambda value: f"{value:.2f}"),
            "token_accuracy": ("token_accuracy", percent),
            "mean_logprob": ("mean_logprob", lambda value: f"{value:.3f}".replace("-", "−")),
            "length": ("completion_tokens", lambda value: f"{value:.1f}"),
            "tokens": ("prompt_tokens", lambda value: f"{value:,.0f}"),
            "latency": ("seconds", lambda value: f"{value:.2f} s"),
            "failed_rows": ("num_errors", html.number),
        }
        if not any(item["num_errors"] for item in summary):
            del shown["failed_rows"]
        shown = {name: (key, word) for name, (key, word) in shown.items() if summary[0].get(key) is not None}
        columns = [Column(t(f"compare.{name}"), numeric=True) for name in shown]
        columns = [Column(t("jobs.model"), wide=True), *columns, Column(t("compare.cost"), numeric=True)]
        rows = [
            Row(
                item["label"],
                [
                    html.two_lines(
                        html.model_name(item["model"]),
                        " · ".join(filter(None, [item["weights"], prompt_text(item["shots"], t)])),
                    ),
                    *(word(item[key]) for key, word in shown.values()),
                    html.money(1000 * item["cost"], item["currency"]),
                ],
            )
            for item in summary
        ]
        Table(t("compare.title"), columns, rows)

    def savings(self, summary: list[dict[str, Any]]) -> Markup:
        """The shortest prompt against the longest: what is saved in every single request."""
        t = self.t
        names = {id(item): one.short_label for item, one in zip(summary, self.comparison.plan.contestants, strict=True)}
        least = min(summary, key=lambda item: item["prompt_tokens"])
        most = max(summary, key=lambda item: item["prompt_tokens"])
        if least is most or least["prompt_tokens"] == most["prompt_tokens"]:
            return Markup('<p class="muted">{}</p>').format(t("compare.no_saving"))
        tokens = most["prompt_tokens"] - least["prompt_tokens"]
        share = 100 * tokens / most["prompt_tokens"]
        who = {"least": names[id(least)], "most": names[id(most)]}
        return Markup("{}{}").format(
            Markup(SAVING).format(f"−{share:.0f} %", t("compare.saving_text", tokens=f"{tokens:,.0f}", **who)),
            self.saved_cost(least, most),
        )

    def saved_cost(self, least: dict[str, Any], most: dict[str, Any]) -> Markup:
        if not most["cost"] or least["currency"] != most["currency"]:
            return Markup("")
        share = 100 * (least["cost"] / most["cost"] - 1)
        costs = (html.money(1000 * item["cost"], item["currency"]) for item in (least, most))
        text = self.t("compare.saving_cost", **dict(zip(("least", "most"), costs, strict=True)))
        return Markup(SAVING).format(f"{share:+.0f} %".replace("-", "−") if round(share) else "0 %", text)

    def show_rows(self) -> None:
        rows = self.comparison.rows[self.shown : self.shown + PAGE]
        self.shown += len(rows)
        with self.list:
            for row in rows:
                html.show(self.row(row)).classes("example")
        self.more.visible = self.shown < len(self.comparison.rows)

    def row(self, row: dict[str, Any]) -> Markup:
        answers = [
            answer(
                one.label, text_of(it["error"] or it["text"]), self.t, is_exact=it["is_exact"], failed=bool(it["error"])
            )
            for one, it in zip(self.comparison.plan.contestants, row["answers"], strict=True)
        ]
        expected, differs = text_of(row["expected"]), row["differs"]
        return answered(row["line"], row["prompt"], expected, answers, self.t, differs=differs, css="conversation")
