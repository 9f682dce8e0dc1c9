"""The report on a training file: what is wrong, what it comes to in tokens, what to do better."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup, escape
from nicegui import ui

from tunery.dashboard.checks import MAX_PROBLEMS, validate
from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.chart import histogram
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.connection import Failure
from tunery.dashboard.visit import BASE, Visit
from tunery.texts import Translator, load

Problem = dict[str, Any]
MAX_RUNS = 6  # of lines that follow one another


async def check_file(
    visit: Visit,
    area: ui.element,
    *,
    file_id: str,
    model: str,
    method: str = "",
    validation_share: float | None = None,
) -> dict[str, Any] | None:
    """Has the server check the file, with its progress shown in `area`. None when it could not, and `area` says why."""
    given = {"file_id": file_id, "model": model, "method": method, "validation_share": validation_share}
    return await watch(visit, area, partial(validate, visit.connection, **given))


async def watch(
    visit: Visit, area: ui.element, check: Callable[..., Awaitable[dict[str, Any]]]
) -> dict[str, Any] | None:
    """The same for whatever gives a report and takes `on_progress`."""
    area.clear()
    with area:
        ui.label(visit.t("create.checking")).classes("muted")
        bar = html.show(html.progress(0, 1, visit.t)).classes("big-progress")

    def on_progress(done: int, total: int) -> None:
        bar.set_content(html.progress(done, total, visit.t))

    report = await visit.ask(check(on_progress=on_progress))
    area.clear()
    if isinstance(report, Failure):
        with area:
            blocks.note(report.message(visit.t), kind="bad")
        return None
    return report


def show_report(report: dict[str, Any], t: Translator, *, with_advice: bool = True, links: bool = False) -> None:
    """The whole report, into the element that is open. `links`: its lines are those of its file, and lead there."""
    file_id = str(report["file"]) if links else ""
    _verdict(report, t)
    if report["problems"]:
        problem_list(report, t, most=MAX_PROBLEMS, file_id=file_id)
    if report["token_counts"]:
        _tokens(report, t)
    if with_advice:
        show_advice(report["advice"], t, file_id=file_id)


def _verdict(report: dict[str, Any], t: Translator) -> None:
    if report["valid"]:
        blocks.note(t("report.good", n=report["num_examples"], lines=report["num_lines"]), kind="good")
    else:
        blocks.note(t("report.bad", n=report["num_errors"], lines=report["num_lines"]), kind="bad")


def problem_list(report: dict[str, Any], t: Translator, *, most: int, file_id: str = "") -> None:
    """The first, and how many there are."""
    alike = _alike(report["problems"], t)[:most]
    _problem_table(alike, t, file_id)
    shown, total = sum(map(len, alike)), sum(report["problem_counts"].values())
    if total > shown:
        ui.label(t("report.more_problems", shown=f"{shown:,}", total=f"{total:,}")).classes("muted small")


def _alike(problems: Sequence[Problem], t: Translator) -> list[list[Problem]]:
    """Those that say the same stand together: one thing done wrong throughout a file is one thing to mend."""
    found: dict[tuple[str, str, str], list[Problem]] = {}
    for each in problems:
        said = each["severity"], t.word(each, "message"), t.word(each, "suggestion")
        found.setdefault(said, []).append(each)
    return list(found.values())


def _lines(problems: Sequence[Problem]) -> str:
    """Such as 3, 7–12."""
    runs: list[list[int]] = []
    for line in sorted({each["line"] for each in problems if each["line"]}):
        if runs and line == runs[-1][-1] + 1:
            runs[-1][1:] = [line]
        else:
            runs.append([line])
    shown = ["–".join(f"{line:,}" for line in run) for run in runs[:MAX_RUNS]]
    return ", ".join(shown + ["…"] * (len(runs) > MAX_RUNS)) or html.DASH


def _rows_link(file_id: str, query: str, shown: str) -> str | Markup:
    """The rows that are meant, to be mended."""
    return html.link(f"{BASE}/datasets/{file_id}?{query}", shown) if file_id and shown != html.DASH else shown


def _problem_table(alike: Sequence[list[Problem]], t: Translator, file_id: str) -> None:
    columns = [Column(t("report.line"), numeric=True), Column(t("report.problem"), wide=True), Column(t("report.mend"))]
    rows = [
        Row(
            str(index),
            [
                _rows_link(file_id, f"problem={same[0]['code']}", _lines(same)),
                html.two_lines(t.word(same[0], "message"), _remark(same[0], t)),
                t.word(same[0], "suggestion"),
            ],
        )
        for index, same in enumerate(alike)
    ]
    Table(t("report.problems"), columns, rows)


def _remark(problem: Problem, t: Translator) -> Markup:
    """Where it is; what is no error says so, for the verdict counts errors."""
    place = html.code(problem["path"] or problem["code"])
    return place if problem["severity"] == "error" else Markup("{} · {}").format(t("report.warning"), place)


def _language(code: str | None, tokens_per_character: float | None, t: Translator) -> str:
    if tokens_per_character is None:
        return html.DASH
    name = html.DASH if code is None else t(f"language.{code}") if f"language.{code}" in load("en") else code
    return t("report.tokens_per_character", language=name, number=f"{tokens_per_character:.2f}")


def _tokens(report: dict[str, Any], t: Translator) -> None:
    counts = report["token_counts"]
    tokens, trained = counts["tokens"], counts["trained_tokens"]
    html.show(
        html.facts(
            [
                (t("report.examples"), html.number(report["num_examples"])),
                (t("report.tokens"), html.number(tokens["total"])),
                (t("report.trained"), html.number(trained["total"])),
                (
                    t("report.per_example"),
                    t("report.spread", min=tokens["min"], median=tokens["median"], max=tokens["max"]),
                ),
                (t("report.prefix"), f"{100 * counts['prefix_share']:.0f} %"),
                (t("report.language"), _language(report["language"], counts["tokens_per_character"], t)),
                (t("report.truncated"), _truncated(counts, t)),
            ]
        )
    )
    bins = tokens["histogram"]
    if len(bins) > 1:
        names = ["–".join(dict.fromkeys(f"{bin[end]:,}" for end in ("from", "to"))) for bin in bins]
        histogram(t, t("report.histogram"), names, [bin["count"] for bin in bins], name=t("report.examples"))


def _truncated(counts: dict[str, Any], t: Translator) -> str:
    if not counts["num_truncated_examples"]:
        return t("report.nothing_cut")
    return t("report.cut", n=counts["num_truncated_examples"], tokens=counts["num_truncated_tokens"])


def _worded(t: Translator, lines: str | Markup) -> Markup:
    return Markup(escape(t("report.lines", lines="\0"))).replace("\0", lines)


def show_advice(found: Sequence[dict[str, Any]], t: Translator, *, file_id: str = "") -> None:
    for advice in found:
        _advice_note(advice, t, file_id)


def _concerned(advice: dict[str, Any]) -> list[int]:
    """Its lines, and those that its evidence compares them with."""
    told = [it["params"] for it in (advice["texts"].get("evidence") or []) if it]
    others = {params[name] for params in told for name in ("line", "other") if isinstance(params.get(name), int)}
    return sorted({*advice["lines"], *others})


def _advice_note(advice: dict[str, Any], t: Translator, file_id: str) -> None:
    """A remark with its evidence; never a reason to stop."""
    shown = ", ".join(str(line) for line in advice["lines"][:10])
    lines = _rows_link(file_id, f"lines={','.join(map(str, _concerned(advice)))}", shown) if shown else ""
    evidence = Markup("").join(Markup("<li>{}</li>").format(item) for item in t.word_all(advice, "evidence")[:3])
    text = Markup("<strong>{}</strong><br>{}{}{}").format(
        t.word(advice, "message"),
        t.word(advice, "suggestion"),
        Markup('<br><span class="muted small">{}</span>').format(_worded(t, lines)) if lines else "",
        Markup('<ul class="evidence small">{}</ul>').format(evidence) if evidence else "",
    )
    blocks.note(text, kind="warn")
