"""One comparison: the table, the tokens and money that fine-tuning saves, and the rows, those that differ first."""

from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard import running
from tunery.dashboard.comparison import Comparison, read_result
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.chart import bars
from tunery.dashboard.components.conversation import conversation, message, shortened
from tunery.dashboard.components.shots import prompt_text
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.visit import BASE, Visit

POLL_S = 0.7
SAVING = '<p class="tile"><span class="value">{}</span><br><span class="name">{}</span></p>'
PAGE = 20


async def build(visit: Visit) -> None:
    comparison_id = visit.param("file_id")
    comparison = running.find(visit.connection, comparison_id)
    if comparison is None and comparison_id.startswith("run-"):
        action = html.button_link(f"{BASE}/compare", visit.t("compare.again"), primary=True)
        blocks.empty("balance", visit.t("compare.lost"), visit.t("compare.lost_text"), action=action)
        return
    if comparison is None:
        content = await visit.connection.client.files.content(comparison_id)
        comparison = read_result(comparison_id, content.text)
    ComparisonPage(visit, comparison).draw()


class ComparisonPage:
    def __init__(self, visit: Visit, comparison: Comparison) -> None:
        self.visit, self.t, self.comparison = visit, visit.t, comparison
        self.shown = 0

    def draw(self) -> None:
        plan = self.comparison.plan
        blocks.heading(self.t("compare.title"), self.t("compare.of", file=plan.filename, n=plan.max_rows))
        self.area = ui.element("div").classes("stack")
        if self.comparison.summary:
            self.draw_result()
            return
        with self.area, blocks.panel():
            ui.label(self.t("compare.running")).classes("muted")
            self.progress = html.show("").classes("big-progress")
        self.look()
        self.timer = ui.timer(POLL_S, self.look)

    def look(self) -> None:
        comparison = self.comparison
        if comparison.error:
            self.area.clear()
            with self.area:
                blocks.note(comparison.error, kind="bad")
                html.show(html.button_link(f"{BASE}/compare", self.t("compare.again")))
        elif comparison.stored_as:
            self.area.clear()
            self.draw_result()
        else:
            self.progress.set_content(html.progress(comparison.done, comparison.total, self.t))
            return
        self.timer.deactivate()

    def draw_result(self) -> None:
        t, summary = self.t, self.comparison.summary
        with self.area:
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
            blocks.show_heading(t("compare.rows_title"))
            self.list = ui.element("div").classes("stack")
            self.more = blocks.button(t("action.more"), self.show_rows)
        self.show_rows()

    def summary_table(self, summary: list[dict[str, Any]]) -> None:
        t = self.t
        names = ("exact", "token_accuracy", "mean_logprob", "length", "tokens", "cost", "latency")
        columns = [Column(t("jobs.model"), wide=True), *(Column(t(f"compare.{name}"), numeric=True) for name in names)]
        rows = [
            Row(
                item["label"],
                [
                    html.two_lines(html.model_name(item["model"]), prompt_text(item["shots"], t)),
                    f"{100 * item['exact']:.1f} %",
                    f"{100 * item['token_accuracy']:.1f} %",
                    f"{item['mean_logprob']:.3f}".replace("-", "−"),
                    f"{item['completion_tokens']:.1f}",
                    f"{item['prompt_tokens']:.0f}",
                    html.money(1000 * item["cost"], item["currency"]),
                    f"{item['seconds']:.2f} s",
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
            Markup(SAVING).format(f"−{share:.0f} %", t("compare.saving_text", tokens=f"{tokens:.0f}", **who)),
            self.saved_cost(least, most),
        )

    def saved_cost(self, least: dict[str, Any], most: dict[str, Any]) -> Markup:
        if not most["cost"] or least["currency"] != most["currency"]:
            return Markup("")
        share = 100 * (least["cost"] / most["cost"] - 1)
        costs = (html.money(1000 * item["cost"], item["currency"]) for item in (least, most))
        text = self.t("compare.saving_cost", **dict(zip(("least", "most"), costs, strict=True)))
        return Markup(SAVING).format(f"{share:+.0f} %".replace("-", "−"), text)

    def show_rows(self) -> None:
        rows = self.comparison.rows[self.shown : self.shown + PAGE]
        self.shown += len(rows)
        with self.list:
            for row in rows:
                html.show(self.row(row)).classes("example")
        self.more.visible = self.shown < len(self.comparison.rows)

    def row(self, row: dict[str, Any]) -> Markup:
        t = self.t
        answers = Markup("").join(
            message(
                "assistant trained" if answer["is_exact"] else "assistant",
                contestant.label,
                shortened(answer["text"]),
                Markup('<span class="badge">{}</span>').format(t("compare.exact")) if answer["is_exact"] else "",
            )
            for contestant, answer in zip(self.comparison.plan.contestants, row["answers"], strict=True)
        )
        return Markup(
            '<div class="line"><span>{line}</span><span>{differs}</span></div>{prompt}{expected}'
            '<div class="conversation">{answers}</div>'
        ).format(
            line=t("dataset.line", n=row["line"]),
            differs=t("compare.differs") if row["differs"] else t("compare.same"),
            prompt=conversation(row["prompt"], t, mark_trained=False),
            expected=message("expected", t("compare.expected"), row["expected"]),
            answers=answers,
        )
