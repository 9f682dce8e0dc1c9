"""What each proposal has found, as a page tells it: tables, one sentence, and for the learning curve a chart."""

from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.chart import band
from tunery.dashboard.components.conversation import shortened
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.models import playground_path
from tunery.dashboard.visit import BASE
from tunery.domain.intervals import Interval
from tunery.improve.curve import LearningCurve
from tunery.improve.prompt import PromptOrData, Way
from tunery.improve.rows import Doubt, Doubts
from tunery.improve.sweep import Sweep
from tunery.texts import Translator, reference

Json = dict[str, Any]


def show_found(job: Json, found: Doubts | LearningCurve | Sweep | PromptOrData, t: Translator) -> None:
    """`job`: the one that is improved on, as `/tunery/v1/jobs/{job_id}` tells it."""
    if isinstance(found, Doubts):
        _rows(job, found, t)
    elif isinstance(found, LearningCurve):
        _curve(found, t)
    elif isinstance(found, Sweep):
        _sweep(found, t)
    else:
        _prompt(found, t)


def _rows(job: Json, found: Doubts, t: Translator) -> None:
    file_id = job["request"]["training_file"]

    def to_line(line: int) -> Markup:
        return html.link(f"{BASE}/datasets/{file_id}?line={line}", t("dataset.line", n=f"{line:,}"))

    def row(doubt: Doubt) -> Row:
        own = html.DASH
        if doubt.own_answer is not None and doubt.own_likelihood is not None and doubt.contradicts:
            own = html.two_lines(_data(doubt.own_answer), f"{doubt.own_likelihood:.0%}")
        near = to_line(doubt.near) if doubt.near else html.DASH
        question, answer = _data(doubt.question), _data(doubt.answer)
        alike = html.DASH if doubt.alike is None else f"{doubt.alike:.0%}"
        likely = f"{doubt.likelihood:.1%}"
        return Row(str(doubt.line), [to_line(doubt.line), likely, alike, answer, own, near, question])

    columns = [
        Column(t("improve.row")),
        Column(t("improve.likely"), numeric=True),
        Column(t("improve.alike"), numeric=True),
        Column(t("improve.answer")),
        Column(t("improve.own")),
        Column(t("improve.near")),
        Column(t("improve.question"), wide=True),
    ]
    blocks.note(t("improve.rows_found", n=len(found.rows), total=f"{found.num_rows:,}"))
    Table(t("improve.rows"), columns, [row(doubt) for doubt in found.rows])


def _data(text: str) -> Markup:
    """What stands in the file, or a model has said."""
    return Markup('<span class="wrap">{}</span>').format(shortened(text))


def _curve(found: LearningCurve, t: Translator) -> None:
    verdict = "improve.as_foretold" if found.holds else "improve.not_foretold"
    expected, doubled, gain = _between(found.expected, ".4f"), _between(found.doubled, ".4f"), _between(found.gain, "%")
    blocks.note(t(verdict, expected=expected, measured=f"{found.measured.loss:.4f}"), kind=_kind(found.holds))
    ui.label(t("improve.doubled", loss=doubled, gain=gain))
    measured = [(float(part.num_rows), part.loss) for part in found.parts]
    sizes = sorted({part.num_rows for part in found.parts} | {2 * found.measured.num_rows})
    lines = [(float(size), found.at(size)) for size in sizes]
    names = (t("improve.measured"), t("improve.foretold"), t("improve.low"), t("improve.high"))
    band(t, t("improve.curve"), measured, lines, x_name=t("improve.rows_axis"), names=names)
    columns = [
        Column(t("improve.part"), wide=True),
        Column(t("improve.rows_axis"), numeric=True),
        Column(t("improve.loss"), numeric=True),
        Column(t("improve.accuracy"), numeric=True),
    ]
    rows = [
        Row(
            part.part,
            [
                html.link(f"{BASE}/jobs/{part.job_id}", worded(part.part, t)),
                f"{part.num_rows:,}",
                f"{part.loss:.4f}",
                f"{part.accuracy:.1%}",
            ],
        )
        for part in found.parts
    ]
    Table(t("improve.jobs"), columns, rows)


def _sweep(found: Sweep, t: Translator) -> None:
    verdict = "improve.is_better" if found.is_better else "improve.not_better"
    blocks.note(t(verdict, difference=_between(found.difference, "+.4f")), kind=_kind(found.is_better))
    columns = [
        Column(t("create.learning_rate_multiplier"), numeric=True),
        Column(t("improve.best_epoch")),
        Column(t("improve.loss"), numeric=True),
        Column(t("improve.accuracy"), numeric=True),
        Column(t("jobs.model"), wide=True),
    ]

    def model(name: str) -> Markup:
        return html.link(playground_path(name), html.model_name(name))

    rows = [
        Row(
            each.job_id,
            [
                html.link(f"{BASE}/jobs/{each.job_id}", f"{each.learning_rate_multiplier:g}"),
                t("improve.epoch_of", n=each.best_epoch, total=each.n_epochs),
                f"{each.best.loss:.4f}",
                f"{each.best.accuracy:.1%}",
                model(each.best.model),
            ],
        )
        for each in found.tried
    ]
    was = found.as_it_was
    figures = [f"{was.loss:.4f}", f"{was.accuracy:.1%}", model(was.model)]
    Table(t("improve.sweep"), columns, [*rows, Row("was", [html.DASH, t("improve.as_it_was"), *figures])])


def _prompt(found: PromptOrData, t: Translator) -> None:
    is_worth_it = found.difference.low > 0
    verdict = "improve.worth_it" if is_worth_it else "improve.prompt_may_do"
    blocks.note(t(verdict, difference=_between(found.difference, "%")), kind=_kind(is_worth_it))

    def row(way: Way) -> Row:
        return Row(way.name, [worded(way.name, t), _between(way.correct, ".0%"), f"{way.prompt_tokens:,.0f}"])

    columns = [
        Column(t("improve.way"), wide=True),
        Column(t("improve.exact", n=found.num_rows), numeric=True),
        Column(t("improve.prompt_tokens"), numeric=True),
    ]
    Table(t("improve.prompt"), columns, [row(way) for way in (found.tuned, *found.base)])


def _kind(is_good: bool) -> str:
    return "good" if is_good else "warn"


def worded(name: str, t: Translator) -> str:
    """Of a part, or a way to ask, in the reader's language."""
    return t.reword(name, reference(name))


def _between(interval: Interval, form: str) -> str:
    """`%`: a signed share."""
    form = "+.0%" if form == "%" else form
    mean, low, high = (f"{value:{form}}".replace("-", "−") for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} – {high})"
