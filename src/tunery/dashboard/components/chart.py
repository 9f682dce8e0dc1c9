"""Curves over steps and bars over time, in ECharts (bundled: nothing is fetched from elsewhere)."""

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from tunery.domain.intervals import Interval

Point = tuple[float, float]

# Readable on both backgrounds and told apart by people who do not see red and green alike.
COLORS = ("#0e8f86", "#d9822b", "#6c6fd1", "#b4447c", "#7a8a2f")
AXIS = "#8a92a0"
DECIMALS = 4  # of what is read with the pointer
HEADROOM = 1.3  # times the highest point
FEW = 4  # so many categories all have room for their names


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


class Curves:
    """Lines over the step, to be zoomed with the wheel and read with the pointer. `update` replaces the points."""

    def __init__(self, label: str, *, x_name: str) -> None:
        whole: dict[str, Any] = {"minInterval": 1, "axisPointer": {"label": {"precision": 0}}}
        whole |= {"min": "dataMin", "max": "dataMax"}
        x = _axis(type="value", name=x_name, nameLocation="middle", nameGap=24, **whole)
        options = _options([], x=x, y=_axis(type="value", scale=True))
        options["grid"]["bottom"] = 44
        options["dataZoom"] = [
            {"type": "inside", "filterMode": "none"},
            ZOOM_BAR,
        ]
        self.chart = ui.echart(options).classes("chart").props(f'role=img aria-label="{label}"')

    def update(self, curves: Mapping[str, Sequence[Point]]) -> None:
        given = {name: points for name, points in curves.items() if points}
        series = [
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
        if series != self.chart.options["series"]:
            self.chart.options["series"] = series
            self.chart.update()


def band(
    label: str,
    measured: Sequence[Point],
    lines: Sequence[tuple[float, Interval]],
    *,
    x_name: str,
    names: tuple[str, str, str, str],
) -> ui.echart:
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
    return _chart(label, options)


def growth(
    label: str,
    so_far: Sequence[Point],
    forecast: Interval | None,
    *,
    last: float,
    limit: float | None,
    names: Sequence[str],
    unit: str,
    x_name: str,
) -> ui.echart:
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
    return _chart(label, options)


def bars(label: str, categories: Sequence[str], stacks: Mapping[str, Sequence[float]], *, unit: str = "") -> ui.echart:
    """Stacked bars: one stack a category, one colour a name; `unit` stands before the numbers of the axis."""
    options = _bar_options(categories, stacks)
    options["yAxis"]["axisLabel"]["formatter"] = f"{unit}{{value}}" if unit else None
    return _chart(label, options)


def _chart(label: str, options: dict[str, Any]) -> ui.echart:
    return ui.echart(options).classes("chart").props(f'role=img aria-label="{label}"')


def _bar_options(categories: Sequence[str], stacks: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    series = [
        {"name": name, "type": "bar", "stack": "all", "data": list(values), "barMaxWidth": 28}
        for name, values in stacks.items()
    ]
    x = _axis(type="category", data=list(categories))
    if len(categories) <= FEW:
        x["axisLabel"] |= {"interval": 0, "width": 110, "overflow": "truncate"}
    return _options(series, x=x, y=_axis(type="value"))


def histogram(label: str, bins: Sequence[str], counts: Sequence[int], *, name: str) -> ui.echart:
    """How many fall into each bin. Both axes are named: there is nothing to compare, so no legend."""
    options = _bar_options(bins, {name: counts})
    options["legend"]["show"] = False
    options["grid"] |= {"top": 30, "bottom": 26}
    options["xAxis"] |= {"name": label, "nameLocation": "middle", "nameGap": 26}
    options["yAxis"] |= {"name": name, "nameTextStyle": {"color": AXIS, "align": "left"}}
    return _chart(label, options).classes("chart-small")
