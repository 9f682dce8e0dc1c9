"""A project's month: spent, budget, forecast; apart because it is the same whatever days the page shows."""

from datetime import UTC, datetime
from typing import Any

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.chart import growth
from tunery.dashboard.visit import Visit
from tunery.domain.intervals import Interval


async def fetch_month(visit: Visit) -> Any:
    who = await visit.connection.get("/tunery/v1/session")
    return await visit.connection.get(f"/tunery/v1/organization/projects/{who['project_id']}/spending")


def show_month(visit: Visit, month: dict[str, Any]) -> None:
    t, currency = visit.t, month["currency"]
    interval = Interval(**month["forecast"]) if month["forecast"] else None
    with blocks.panel(t("usage.month")):
        html.tiles(
            [
                (t("limits.spent"), html.money(month["spent"], currency), t("limits.since_first")),
                (t("usage.budget"), html.money(month["budget"], currency), _share(visit, month)),
                (
                    t("usage.forecast"),
                    html.money(interval and interval.mean, currency),
                    _range(visit, interval, currency),
                ),
            ]
        )
        blocks.note(_how(visit, month))
        names = [t(f"usage.{name}") for name in ("so_far", "forecast", "low", "high", "budget")]
        growth(
            t,
            t("usage.month"),
            _sums(month),
            interval,
            last=_day(month["end_time"] - 1),
            limit=month["budget"],
            names=names,
            unit=html.currency_sign(currency),
            x_name=t("usage.day_of_month"),
        )


def _share(visit: Visit, month: dict[str, Any]) -> str:
    if not month["budget"]:
        return visit.t("usage.no_budget")
    return visit.t("usage.budget_share", share=f"{100 * month['spent'] / month['budget']:.0f}")


def _range(visit: Visit, interval: Interval | None, currency: str) -> str:
    if interval is None:
        return ""
    return visit.t("usage.range", low=html.money(interval.low, currency), high=html.money(interval.high, currency))


def _how(visit: Visit, month: dict[str, Any]) -> str:
    values = {"n": month["known_days"], "needed": month["needed_days"]}
    return visit.t("usage.forecast_how" if month["forecast"] else "usage.forecast_wait", **values)


def _day(moment: int) -> int:
    return datetime.fromtimestamp(moment, UTC).day


def _sums(month: dict[str, Any]) -> list[tuple[float, float]]:
    """What was spent from the first to each day."""
    sums: list[tuple[float, float]] = []
    total = 0.0
    for day in month["days"]:
        total += day["amount"]
        sums.append((_day(day["start_time"]), total))
    return sums
