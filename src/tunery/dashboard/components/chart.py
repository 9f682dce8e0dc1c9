"""Curves over steps and bars over time, in ECharts (bundled: nothing is fetched from elsewhere). Below each its numbers
as a table, for who does not see it, or wants to read or copy them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import html
from tunery.domain.intervals import Interval
from tunery.texts import Translator

Point = tuple[float, float]

# Readable on both backgrounds and told apart by people who do not see red and green alike.
COLORS = ("#0e8f86", "#d9822b", "#6c6fd1", "#b4447c", "#7a8a2f")
AXIS = "#8a92a0"
DECIMALS = 4  # of what is read with the pointer
HEADROOM = 1.3  # times the highest point
FEW = 4  # so many categories all have room for their names
MAX_ROWS = 20  # of a curve's table: what one can listen to


ZOOM_BAR: dict[str, Any] = {
    "type": "slider",
    "height": 14,
    "bottom": 4,
    "filterMode": "none",
    "showDetail": False,
    "showDataShadow": False,
    "brushSelect": False,
    "borderColor": "transparent",
    "backgroundColor": "rgba(138,146,160,0.14)",
    "fillerColor": "rgba(14,143,134,0.22)",
    "handleStyle": {"color": COLORS[0], "borderColor": COLORS[0]},
    "moveHandleStyle": {"color": "rgba(14,143,134,0.45)"},
}


def _axis(**more: Any) -> dict[str, Any]:
    return {
        "axisLine": {"lineStyle": {"color": AXIS}},
        "axisLabel": {"color": AXIS, "hideOverlap": True},
        "nameTextStyle": {"color": AXIS},
        "splitLine": {"lineStyle": {"color": "rgba(138,146,160,0.18)"}},
        **more,
    }


def _options(series: list[dict[str, Any]], *, x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
    return {
        "animation": False,
        "color": list(COLORS),
        "grid": {"left": 8, "right": 16, "top": 40, "bottom": 8, "containLabel": True},
        "legend": {
            "type": "scroll",
            "top": 4,
            "left": 4,
            "textStyle": {"color": AXIS, "fontSize": 11.5},
            "icon": "roundRect",
            "itemHeight": 4,
            "itemWidth": 12,  # so that four names fit on a phone
            "itemGap": 9,
            "padding": 0,
        },
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "backgroundColor": "var(--surface)",
            "borderColor": "var(--line)",
            "textStyle": {"color": "var(--text)"},
        },
        "xAxis": x,
        "yAxis": y,
        "series": series,
    }


class _Chart:
    """The picture, and in a box that opens the same as a table; `update` renews both."""

    def __init__(self, t: Translator, label: str, options: dict[str, Any], *, unit: str = "", css: str = "") -> None:
        self.t, self.label, self.unit = t, label, unit
        self.picture = ui.echart(options).classes(f"chart {css}").props(f'role=img aria-label="{label}"')
        with ui.element("details").classes("numbers"):
            html.show(t("chart.numbers"), tag="summary")
            self.table = html.show(self._table())

    def update(self, series: list[dict[str, Any]]) -> None:
        if series != self.picture.options["series"]:
            self.picture.options["series"] = series
            self.picture.update()
            self.table.set_content(self._table())

    def _table(self) -> Markup:
        options, t = self.picture.options, self.t
        names = [line["name"] for line in options["series"]]
        rows, total = _table_rows(options)
        told = t("chart.thinned", shown=len(rows), total=f"{total:,}") if len(rows) < total else t("chart.whole")
        first = options["xAxis"].get("name") or t("chart.bar")
        head = Markup("").join(
            Markup('<th scope="col">{}</th>').format(html.model_name(name)) for name in [first, *names]
        )
        body = Markup("").join(
            Markup('<tr><th scope="row">{}</th>{}</tr>').format(
                html.model_name(at), Markup("").join(map(self._cell, values))
            )
            for at, values in rows
        )
        return Markup(
            '<div class="table-wrap compact" tabindex="0" role="region" aria-label="{0}"><table><caption>{1}</caption>'
            "<thead><tr>{2}</tr></thead><tbody>{3}</tbody></table></div>"
        ).format(self.label, told, head, body)

    def _cell(self, value: float | None) -> Markup:
        shown = html.DASH if value is None else f"{self.unit}{html.number(value)}"
        return Markup('<td class="num">{}</td>').format(shown)


def _table_rows(options: dict[str, Any]) -> tuple[list[tuple[str, list[float | None]]], int]:
    """What stands under the x axis with a value of each series, and how many there are in all. Of many points
    `MAX_ROWS` are kept, evenly spread with both ends: each has the newest value since the row before it."""
    lines = [line["data"] for line in options["series"]]
    if options["xAxis"]["type"] == "category":
        categories = options["xAxis"]["data"]
        return list(zip(categories, map(list, zip(*lines, strict=True)), strict=True)), len(categories)
    every = sorted({x for line in lines for x, _ in line})
    last = len(every) - 1
    kept = [every[round(at * last / (MAX_ROWS - 1))] for at in range(MAX_ROWS)] if last >= MAX_ROWS else every

    def newest(line: list[list[float]], after: float, until: float) -> float | None:
        return next((y for x, y in reversed(line) if after < x <= until), None)

    rows = [
        (html.number(until), [newest(line, after, until) for line in lines])
        for after, until in pairwise([float("-inf"), *kept])
    ]
    return rows, len(every)


class Curves:
    """Lines over the step, to be zoomed with the wheel and read with the pointer. `update` replaces the points."""

    def __init__(self, t: Translator, label: str, *, x_name: str) -> None:
        whole: dict[str, Any] = {"minInterval": 1, "axisPointer": {"label": {"precision": 0}}}
        whole |= {"min": "dataMin", "max": "dataMax"}
        x = _axis(type="value", name=x_name, nameLocation="middle", nameGap=24, **whole)
        options = _options([], x=x, y=_axis(type="value", scale=True))
        options["grid"]["bottom"] = 44
        options["dataZoom"] = [
            {"type": "inside", "filterMode": "none"},
            ZOOM_BAR,
        ]
        self.chart = _Chart(t, label, options)

    def update(self, curves: Mapping[str, Sequence[Point]]) -> None:
        given = {name: points for name, points in curves.items() if points}
        self.chart.update(
            [
                {
                    "name": name,
                    "type": "line",
                    "data": [[step, round(value, DECIMALS)] for step, value in points],
                    "showSymbol": len(points) < 30,
                    "symbolSize": 5,
                    "lineStyle": {"width": 2},
                }
                for name, points in given.items()
            ]
        )


def band(
    t: Translator,
    label: str,
    measured: Sequence[Point],
    lines: Sequence[tuple[float, Interval]],
    *,
    x_name: str,
    names: tuple[str, str, str, str],
) -> None:
    """Points, and what is foretold with its interval. `names`: of the points, of the line, of its low and high ends."""
    dotted = {"type": "line", "showSymbol": False, "lineStyle": {"width": 1, "type": "dashed"}}
    ways = [
        {"type": "scatter", "symbolSize": 9},
        {"type": "line", "showSymbol": False, "lineStyle": {"width": 2}},
        *({**dotted, "itemStyle": {"color": AXIS}, "lineStyle": {**dotted["lineStyle"], "color": AXIS}},) * 2,
    ]
    ends = ([(at, getattr(each, end)) for at, each in lines] for end in ("mean", "low", "high"))
    series = [
        {"name": name, "data": [[at, round(value, DECIMALS)] for at, value in points], **way}
        for name, points, way in zip(names, [measured, *ends], ways, strict=True)
    ]
    highest = HEADROOM * max(value for _, value in measured)  # a wide interval would leave the points on the floor
    x = _axis(type="value", name=x_name, nameLocation="middle", nameGap=24, min=0, minInterval=1)
    options = _options(series, x=x, y=_axis(type="value", min=0, max=round(highest, DECIMALS)))
    options["grid"]["bottom"] = 30
    _Chart(t, label, options)


def growth(
    t: Translator,
    label: str,
    so_far: Sequence[Point],
    forecast: Interval | None,
    *,
    last: float,
    limit: float | None,
    names: Sequence[str],
    unit: str,
    x_name: str,
) -> None:
    """A sum that grows, up to the x of `last`: from its newest point on as foretold, under a level line at `limit`.
    `names`: of the sum, of the forecast's mean, low and high, and of the limit."""
    ends = (forecast and forecast.mean, forecast and forecast.low, forecast and forecast.high)
    lines: list[Sequence[Point]] = [so_far, *([so_far[-1], (last, end)] if end is not None else [] for end in ends)]
    lines.append([(1, limit), (last, limit)] if limit else [])
    looks = [(COLORS[0], "solid", 2), (COLORS[0], "dashed", 2), (AXIS, "dashed", 1), (AXIS, "dashed", 1)]
    looks.append((COLORS[3], "solid", 2))
    series = [
        {
            "name": name,
            "type": "line",
            "data": [[at, round(value, 2 * DECIMALS)] for at, value in points],
            "showSymbol": len(points) == 1,
            "itemStyle": {"color": color},
            "lineStyle": {"color": color, "type": dash, "width": width},
        }
        for name, points, (color, dash, width) in zip(names, lines, looks, strict=True)
        if points
    ]
    x = _axis(type="value", name=x_name, nameLocation="middle", nameGap=24, min=1, max=last, minInterval=1)
    options = _options(series, x=x, y=_axis(type="value", min=0))
    options["yAxis"]["axisLabel"]["formatter"] = f"{unit}{{value}}"
    options["grid"]["bottom"] = 30
    _Chart(t, label, options, unit=unit)


def bars(
    t: Translator, label: str, categories: Sequence[str], stacks: Mapping[str, Sequence[float]], *, unit: str = ""
) -> None:
    """Stacked bars: one stack a category, one colour a name; `unit` stands before the numbers of the axis."""
    options = _bar_options(categories, stacks)
    options["yAxis"]["axisLabel"]["formatter"] = f"{unit}{{value}}" if unit else None
    _Chart(t, label, options, unit=unit)


def _bar_options(categories: Sequence[str], stacks: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    series = [
        {"name": name, "type": "bar", "stack": "all", "data": list(values), "barMaxWidth": 28}
        for name, values in stacks.items()
    ]
    x = _axis(type="category", data=list(categories))
    if len(categories) <= FEW:
        x["axisLabel"] |= {"interval": 0, "width": 110, "overflow": "truncate"}
    return _options(series, x=x, y=_axis(type="value"))


def histogram(t: Translator, label: str, bins: Sequence[str], counts: Sequence[int], *, name: str) -> None:
    """How many fall into each bin. Both axes are named: there is nothing to compare, so no legend."""
    options = _bar_options(bins, {name: counts})
    options["legend"]["show"] = False
    options["grid"] |= {"top": 30, "bottom": 26}
    options["xAxis"] |= {"name": label, "nameLocation": "middle", "nameGap": 26}
    options["yAxis"] |= {"name": name, "nameTextStyle": {"color": AXIS, "align": "left"}}
    _Chart(t, label, options, css="chart-small")
