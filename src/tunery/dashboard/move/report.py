"""One parity report: the verdict first, then what it rests on, then the answers, those that differ first."""

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.choices import known_models, with_weights
from tunery.dashboard.components.conversation import answer, answered
from tunery.dashboard.components.table import Cell, Column, Row, Table
from tunery.dashboard.move.page import VERDICTS, command
from tunery.dashboard.move.reader import NotAReport, read_part
from tunery.dashboard.visit import BASE, Visit
from tunery.domain.intervals import Interval
from tunery.domain.parity import ModelSummary, Money, Parity, ParityRow, RowAnswer
from tunery.texts import Translator

PAGE = 20


async def build(visit: Visit) -> None:
    t, file_id = visit.t, visit.param("file_id")
    try:
        parity, rows = await read_part(visit.connection.client, file_id, skip=0, count=PAGE)
    except NotAReport:
        blocks.heading(t("move.title"))
        action = html.button_link(f"{BASE}/move", t("move.back"), primary=True)
        blocks.empty("swap_horiz", t("move.not_report"), t("move.not_report_text"), action=action)
        return
    download = html.button_link(f"{BASE}/download/{file_id}", t("action.download"), symbol="download")
    names = {"old": html.model_name(parity.old.model), "new": html.model_name(parity.new.model)}
    blocks.heading(t("move.report"), Markup(t("move.of")).format(**names), actions=download)
    _verdict(parity, t)
    asked = [("move.new", parity.new), ("move.old", parity.old), ("move.column_base", parity.base)]
    known = await known_models(visit, [one.model for _, one in asked if one is not None])
    html.show(html.facts([(t(role), with_weights(one.model, known, t)) for role, one in asked if one is not None]))
    _tiles(parity, t)
    _measures(parity, t)
    RowList(visit, file_id, parity, rows).draw()


def _verdict(parity: Parity, t: Translator) -> None:
    name = VERDICTS[parity.decision.safe_to_switch]
    kind, symbol = {"yes": ("good", "check_circle"), "no": ("bad", "error"), "unsure": ("warn", "help")}[name]
    next_step = t(f"move.next_{name}")
    if name == "yes":
        text = f"tunery migrate openai switch \\\n  {parity.old.model} \\\n  {parity.new.model}"
        next_step = Markup("{} {}").format(next_step, command(text))
    html.show(
        Markup('<div class="note {}">{}<div><p class="lead">{}</p><p>{}</p><p class="small">{}</p></div></div>').format(
            kind, html.icon(symbol), t(f"move.sentence_{name}"), reason(parity, t), next_step
        )
    )


def reason(parity: Parity, t: Translator) -> str:
    """Why the verdict is what it is, from the report's figures, so that it can be said in every language."""
    rows, verdict = parity.new.num_rows, parity.decision.safe_to_switch
    margin = f"{100 * parity.margin:.0f}"
    if verdict == "not enough data" and rows < parity.min_rows:
        return t("move.why_few", rows=rows, more=parity.min_rows - rows, margin=margin)
    why = t(f"move.why_{VERDICTS[verdict]}", points=points(parity.decision.difference, t), margin=margin)
    is_base_as_good = parity.base is not None and parity.new.score.mean <= parity.base.score.mean
    return f"{why} {t('move.why_base')}" if verdict == "no" and is_base_as_good else why


def points(difference: Interval, t: Translator) -> str:
    mean, low, high = (
        f"{100 * value:+.1f}".replace("-", "−") for value in (difference.mean, difference.low, difference.high)
    )
    return t("move.points", mean=mean, low=low, high=high)


def _tiles(parity: Parity, t: Translator) -> None:
    old, new, measured_by = parity.old, parity.new, t(f"move.by_{parity.measure}")
    html.tiles(
        [
            (t("move.score"), _arrow(_percent(old.score.mean), _percent(new.score.mean)), measured_by),
            (t("move.cost"), _arrow(_money(parity.costs.old), _money(parity.costs.new)), _cost_change(parity, t)),
            (t("move.latency"), _arrow(_milliseconds(old), _milliseconds(new)), t("move.latency_text")),
            (t("move.rows"), html.number(new.num_rows), html.when(parity.created_at, t)),
        ]
    )


def _arrow(old: str, new: str) -> Markup:
    return Markup('{} <span class="arrow">→</span> {}').format(old, new)


def _cost_change(parity: Parity, t: Translator) -> str:
    old, new = parity.costs.old, parity.costs.new
    if old is None or new is None:
        return t("move.cost_unknown")
    if old.currency != new.currency or not old.amount:
        return t("move.cost_text")
    percent = 100 * (new.amount / old.amount - 1)
    if abs(percent) < 0.5:
        return t("move.cost_same")
    return t("move.cost_less" if percent < 0 else "move.cost_more", percent=f"{abs(percent):.0f}")


def _measures(parity: Parity, t: Translator) -> None:
    roles = [("old", parity.old, parity.costs.old), ("new", parity.new, parity.costs.new)]
    if parity.base is not None:
        roles.append(("base", parity.base, parity.costs.base))
    columns = [Column(t("move.measure")), *(Column(t(f"move.column_{role}")) for role, _, _ in roles)]
    cells = [_summary_cells(summary, cost, t) for _, summary, cost in roles]
    rows = [Row(name, [t(f"move.m_{name}"), *(each[name] for each in cells)]) for name in cells[0]]
    blocks.show_heading(t("move.measures"))
    Table(t("move.measures"), columns, rows, narrow="table")
    base = "" if parity.base is None else f"{t('move.base', name=parity.base.model)} "
    html.show(Markup('<p class="muted small">{}{}</p>').format(base, t("move.measures_text", min=parity.min_rows)))


def _summary_cells(summary: ModelSummary, cost: Money | None, t: Translator) -> dict[str, Cell]:
    return {
        "score": _interval(summary.score, t),
        "exact": _percent(summary.exact_match),
        "similarity": _percent(summary.similarity),
        "agreement": _percent(summary.agreement),
        "refusals": _percent(summary.refusals),
        "words": f"{summary.mean_words:.1f}",
        "latency": _milliseconds(summary),
        "tokens": f"{summary.prompt_tokens:,} + {summary.completion_tokens:,}",
        "cost": _money(cost),
        "failed": html.number(summary.num_errors),
    }


def _interval(interval: Interval, t: Translator) -> Markup:
    """The mean, its 95 % interval in figures, and both drawn on a line from 0 to 100 %."""
    low, mean, high = (min(1.0, max(0.0, value)) for value in (interval.low, interval.mean, interval.high))
    text = t("move.interval", low=_percent(interval.low), high=_percent(interval.high))
    return Markup(
        '<span class="figure">{mean} <span class="muted small">{text}</span>'
        '<span class="interval" aria-hidden="true"><span style="left:{left:.1f}%;width:{width:.1f}%"></span>'
        '<i style="left:{at:.1f}%"></i></span></span>'
    ).format(mean=_percent(interval.mean), text=text, left=100 * low, width=100 * (high - low), at=100 * mean)


def _percent(value: float | None) -> str:
    return html.DASH if value is None else f"{100 * value:.1f} %"


def _money(cost: Money | None) -> str:
    return html.DASH if cost is None else html.money(cost.amount, cost.currency)


def _milliseconds(summary: ModelSummary) -> str:
    return f"{summary.latency_p50_ms:,.0f} ms" if summary.latency_p50_ms else html.DASH


class RowList:
    """What was asked, and both answers side by side. Those that differ come first."""

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
        answers = [self.answer(row, row.old, self.t("move.old")), self.answer(row, row.new, self.t("move.new"))]
        differs = row.similarity < 1
        return answered(row.row, row.messages, row.expected, answers, self.t, differs=differs, css="pair")

    def answer(self, row: ParityRow, given: RowAnswer, name: str) -> Markup:
        is_exact = self.parity.measure == "exact" and row.expected is not None and given.score == 1
        return answer(name, given.text, self.t, is_exact=is_exact, failed=given.failed)
