"""One comparison: the table, the tokens and money that fine-tuning saves, and the rows, those that differ first."""

from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.compare import running
from tunery.dashboard.comparison import Comparison, read_result
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.chart import bars
from tunery.dashboard.components.choices import MAX_HELD_BYTES
from tunery.dashboard.components.conversation import answer, answered, text_of
from tunery.dashboard.components.poll import Poll
from tunery.dashboard.components.shots import prompt_text
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.visit import BASE, Visit

SAVING = '<p class="tile"><span class="value">{}</span><br><span class="name">{}</span></p>'
PAGE = 20


async def build(visit: Visit) -> None:
    t, comparison_id = visit.t, visit.param("file_id")
    comparison = running.find(visit.connection, comparison_id)
    if comparison is None:
        is_lost = comparison_id.startswith("run-")
        comparison = None if is_lost else await _stored(visit, comparison_id)
        if comparison is None:
            _nothing(visit, t("compare.lost") if is_lost else t("compare.not_result"), is_lost)
            return
    ComparisonPage(visit, comparison).draw()


def _nothing(visit: Visit, title: str, is_lost: bool) -> None:
    t = visit.t
    blocks.heading(t("compare.title"))
    text = t("compare.lost_text") if is_lost else t("compare.not_result_text")
    blocks.empty("balance", title, text, action=html.button_link(f"{BASE}/compare", t("compare.again"), primary=True))


async def _stored(visit: Visit, file_id: str) -> Comparison | None:
    """None when the file is something else."""
    files = visit.connection.client.files
    if (await files.retrieve(file_id)).bytes > MAX_HELD_BYTES:
        return None
    try:
        return read_result(file_id, (await files.content(file_id)).text)
    except ValueError:
        return None


class ComparisonPage:
    def __init__(self, visit: Visit, comparison: Comparison) -> None:
        self.visit, self.t, self.comparison = visit, visit.t, comparison
        self.shown = 0

    def draw(self) -> None:
        plan = self.comparison.plan
        blocks.heading(self.t("compare.title"), self.t("compare.of", file=plan.filename, n=plan.max_rows))
        self.area = ui.element("div").classes("stack")
        if self.comparison.summary or self.comparison.stored_as:
            self.draw_result()
            return
        with self.area, blocks.panel():
            ui.label(self.t("compare.running")).classes("muted")
            self.progress = html.show("").classes("big-progress")
        if self.show_progress():
            Poll(self.look)

    async def look(self) -> bool:
        return not self.progress.is_deleted and self.show_progress()

    def show_progress(self) -> bool:
        """Whether it still runs."""
        comparison = self.comparison
        if comparison.error:
            self.area.clear()
            self.draw_failure()
        elif comparison.stored_as:
            self.area.clear()
            self.draw_result()
        else:
            self.progress.set_content(html.progress(comparison.done, comparison.total, self.t))
            return True
        return False

    def draw_failure(self) -> None:
        """Why, and the answers there are."""
        with self.area:
            blocks.note(self.comparison.error, kind="bad")
            html.show(html.button_link(f"{BASE}/compare", self.t("compare.again")))
            if self.comparison.rows:
                self.draw_rows(self.t("compare.until_then"))

    def draw_result(self) -> None:
        with self.area:
            if self.comparison.summary:
                self.draw_summary()
            else:  # the file of somebody who left it out
                blocks.note(self.t("compare.no_figures"))
            self.draw_rows(self.t("compare.rows_title"))

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
                bars(t("compare.tokens_per_question"), labels, stacks)
            with blocks.panel(t("compare.saving")):
                html.show(self.savings(summary))

    def draw_rows(self, title: str) -> None:
        blocks.show_heading(title)
        self.list = ui.element("div").classes("stack")
        self.more = blocks.button(self.t("action.more"), self.show_rows)
        self.show_rows()

    def summary_table(self, summary: list[dict[str, Any]]) -> None:
        t = self.t
        names = ("exact", "token_accuracy", "mean_logprob", "length", "tokens", "cost", "latency")
        if any(item["num_errors"] for item in summary):
            names = (*names, "failed_rows")
        columns = [Column(t("jobs.model"), wide=True), *(Column(t(f"compare.{name}"), numeric=True) for name in names)]
        rows = [
            Row(
                item["label"],
                [
                    html.two_lines(
                        html.model_name(item["model"]),
                        " · ".join(filter(None, [item["weights"], prompt_text(item["shots"], t)])),
                    ),
                    f"{100 * item['exact']:.1f} %",
                    f"{100 * item['token_accuracy']:.1f} %",
                    f"{item['mean_logprob']:.3f}".replace("-", "−"),
                    f"{item['completion_tokens']:.1f}",
                    f"{item['prompt_tokens']:,.0f}",
                    html.money(1000 * item["cost"], item["currency"]),
                    f"{item['seconds']:.2f} s",
                    html.number(item["num_errors"]),
                ][: 1 + len(names)],
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
