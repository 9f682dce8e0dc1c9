"""Tokens and money by day, model, key and person, and of the month, as the usage and costs endpoints tell them."""

import asyncio
import csv
import io
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup
from nicegui import ui

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.chart import bars
from tunery.dashboard.components.choices import Known, known_models, with_weights
from tunery.dashboard.components.table import Column, Row, Table
from tunery.dashboard.usage.month import fetch_month, show_month
from tunery.dashboard.usage.spenders import fetch_spenders, show_spenders
from tunery.dashboard.visit import BASE, Visit
from tunery.texts import Translator

DAY_S = 86_400
RANGES = (7, 30)
KINDS = ("training_tokens", "cached_input_tokens", "input_tokens", "output_tokens")  # what a line item ends with


async def build(visit: Visit) -> None:
    t = visit.t
    days = int(visit.query("days")) if visit.query("days") in {str(days) for days in RANGES} else RANGES[0]
    start = int(time.time()) // DAY_S * DAY_S - (days - 1) * DAY_S
    usage = visit.connection.client.admin.organization.usage
    of_models: Any = {"start_time": start, "bucket_width": "1d", "group_by": ["model"], "limit": min(days, 31)}
    spoken, embedded, costed, spenders, month = await asyncio.gather(
        usage.completions(**of_models),
        usage.embeddings(**of_models),
        usage.costs(start_time=start, bucket_width="1d", group_by=["line_item"], limit=days),
        fetch_spenders(visit, start, days),
        fetch_month(visit),
    )
    tokens, costs = spoken.data, costed.data
    for bucket, more in zip(tokens, embedded.data, strict=True):
        results: list[Any] = bucket.results
        results += more.results
    choices = Markup("").join(
        html.button_link(f"{BASE}/usage?days={option}", t("usage.days", n=option), primary=option == days)
        for option in RANGES
    )
    blocks.heading(t("usage.title"), t("usage.subtitle"), actions=choices)
    by_model = _by_model(tokens)
    by_item, currency = _by_line_item(costs)
    if not by_model and not by_item:
        action = html.button_link(f"{BASE}/playground", t("nav.playground"), primary=True)
        blocks.empty("bar_chart", t("usage.empty"), t("usage.empty_text"), action=action)
        return
    known = await known_models(visit, [*by_model, *(item.rpartition(", ")[0] for item in by_item)])
    _tiles(visit, by_model, sum(by_item.values()), currency)
    show_month(visit, month)
    dates = [datetime.fromtimestamp(bucket.start_time, UTC).strftime("%m-%d") for bucket in costs]
    with ui.element("div").classes("columns"):
        with blocks.panel(t("usage.cost_by_day")):
            bars(t, t("usage.cost_by_day"), dates, _cost_series(costs, t), unit=html.currency_sign(currency))
        with blocks.panel(t("usage.tokens_by_day")):
            days_of_tokens = [datetime.fromtimestamp(bucket.start_time, UTC).strftime("%m-%d") for bucket in tokens]
            bars(t, t("usage.tokens_by_day"), days_of_tokens, _token_series(tokens, t))
    with blocks.panel(t("usage.by_model")):
        _model_table(visit, by_model, known)
    with blocks.panel(t("usage.by_item")):
        _item_table(visit, by_item, currency, known)
    show_spenders(visit, spenders, currency)
    blocks.button(
        t("usage.download"), lambda: ui.download.content(_as_csv(tokens, costs), "usage.csv"), symbol="download"
    )


def _by_model(buckets: Any) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("requests", "input", "cached", "output"), 0))
    for bucket in buckets:
        for result in bucket.results:
            total = totals[result.model or html.DASH]
            total["requests"] += result.num_model_requests
            total["input"] += result.input_tokens
            total["cached"] += _cached(result)
            total["output"] += _output(result)
    return dict(totals)


def _cached(result: Any) -> int:
    """Embeddings have neither these tokens nor those that come out."""
    return getattr(result, "input_cached_tokens", 0) or 0


def _output(result: Any) -> int:
    return getattr(result, "output_tokens", 0)


def _by_line_item(buckets: Any) -> tuple[dict[str, float], str]:
    totals: dict[str, float] = defaultdict(float)
    currency = "usd"
    for bucket in buckets:
        for result in bucket.results:
            totals[result.line_item or html.DASH] += result.amount.value or 0
            currency = result.amount.currency or currency
    return dict(totals), currency


def _cost_series(buckets: Any, t: Translator) -> dict[str, list[float]]:
    """By what was paid for; the line items name the model too, which would be too many colours."""
    return {
        t(f"usage.{kind}"): [
            sum(
                result.amount.value or 0
                for result in bucket.results
                if (result.line_item or "").split(", ")[-1] == kind
            )
            for bucket in buckets
        ]
        for kind in KINDS
    }


def _token_series(buckets: Any, t: Translator) -> dict[str, list[float]]:
    def total(count: Callable[[Any], int]) -> list[float]:
        return [sum(map(count, bucket.results)) for bucket in buckets]

    read, cached = total(lambda result: result.input_tokens), total(_cached)
    return {
        t("usage.input"): [every - hit for every, hit in zip(read, cached, strict=True)],
        t("usage.cached"): cached,
        t("usage.output"): total(_output),
    }


def _tiles(visit: Visit, by_model: dict[str, dict[str, int]], cost: float, currency: str) -> None:
    t = visit.t

    def total(name: str) -> int:
        return sum(model[name] for model in by_model.values())

    share = 100 * total("cached") / total("input") if total("input") else 0
    html.tiles(
        [
            (t("job.cost"), html.money(cost, currency), ""),
            (t("usage.requests"), html.number(total("requests")), ""),
            (t("usage.input"), html.number(total("input")), t("usage.cached_share", share=f"{share:.0f}")),
            (t("usage.output"), html.number(total("output")), ""),
        ]
    )


def _model_table(visit: Visit, by_model: dict[str, dict[str, int]], known: Known) -> None:
    t = visit.t
    columns = [Column(t("jobs.model"), wide=True)]
    columns += [Column(t(f"usage.{name}"), numeric=True) for name in ("requests", "input", "cached", "output")]
    rows = [
        Row(name, [with_weights(name, known, t), *(html.number(value) for value in totals.values())])
        for name, totals in by_model.items()
    ]
    Table(t("usage.by_model"), columns, rows)


def _item_table(visit: Visit, by_item: dict[str, float], currency: str, known: Known) -> None:
    t = visit.t
    columns = [Column(t("jobs.model"), wide=True), Column(t("usage.item")), Column(t("job.cost"), numeric=True)]
    rows = []
    for item, amount in sorted(by_item.items()):
        model, _, kind = item.rpartition(", ")
        rows.append(Row(item, [with_weights(model, known, t), _kind(kind, t), html.money(amount, currency)]))
    Table(t("usage.by_item"), columns, rows)


def _kind(kind: str, t: Translator) -> str:
    return t(f"usage.{kind}") if kind in KINDS else kind


def _as_csv(tokens: Any, costs: Any) -> bytes:
    """One table of both: a row a day and model, and a row a day and line item."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["day", "name", "requests", "input_tokens", "cached_tokens", "output_tokens", "amount", "currency"])
    for bucket in tokens:
        day = datetime.fromtimestamp(bucket.start_time, UTC).date()
        for r in bucket.results:
            cells = [r.num_model_requests, r.input_tokens, _cached(r), _output(r)]
            writer.writerow([day, r.model, *cells, "", ""])
    for bucket in costs:
        day = datetime.fromtimestamp(bucket.start_time, UTC).date()
        for r in bucket.results:
            writer.writerow([day, r.line_item, "", "", "", "", r.amount.value, r.amount.currency])
    return file.getvalue().encode()
