"""Turns the ledger's sums into OpenAI's buckets."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from tunery.api.context import Context
from tunery.api.usage.schemas import (
    Amount,
    Bucket,
    BucketPage,
    CostResult,
    DaySpent,
    EmbeddingsResult,
    ForecastOut,
    SpendingOut,
    UsageResult,
)
from tunery.domain.forecast import KNOWN_DAYS, NEEDED_DAYS, known_days, month_end
from tunery.domain.usage import MICRO, PICO, UsageSum
from tunery.metering.limits import month_start, project_limits
from tunery.store import tenants
from tunery.store.database import read
from tunery.store.usage import sum_usage

WIDTHS_S = {"1m": 60, "1h": 3600, "1d": 86_400}
DAY_S = 86_400
LINES = (  # of the bill: its name, which cost, which tokens
    ("input_tokens", "input", lambda usage: usage.input_tokens - usage.cached_tokens),
    ("cached_input_tokens", "cached", lambda usage: usage.cached_tokens),
    ("output_tokens", "output", lambda usage: usage.output_tokens),
    ("training_tokens", "training", lambda usage: usage.trained_tokens),
)


@dataclass(frozen=True)
class Span:
    """Which buckets a page holds: those that start in [start, end), `width_s` long."""

    width_s: int
    start: int
    end: int
    next_start: int | None  # of the page after it

    @property
    def starts(self) -> range:
        return range(self.start, self.end, self.width_s)


def span_of(start_time: int, end_time: int | None, width: str, *, limit: int, page: str | None, now: int) -> Span:
    """Buckets lie on whole minutes, hours and days (UTC); the first is the one that holds start_time.

    A page cursor that is none gives no buckets, as an unknown cursor does everywhere.
    """
    width_s = WIDTHS_S[width]
    start = max(0, start_time - start_time % width_s)
    end = min(now + 1 if end_time is None else end_time, now + width_s)
    if page is not None:
        match = re.fullmatch(r"page_(\d{1,12})", page)
        start = max(start, int(match[1])) if match else end
    stop = min(end, start + limit * width_s)
    return Span(width_s, start, max(start, stop), stop if limit and stop < end else None)


Timed = TypeVar("Timed", UsageSum, "CostLine")


def usage_page(
    context: Context,
    organization_id: str,
    span: Span,
    *,
    group_by: tuple[str, ...],
    filters: dict[str, tuple[Any, ...]],
    with_embeddings: bool = False,
) -> BucketPage[UsageResult]:
    others = () if with_embeddings else _embedding_models(context)
    sums = _sums(context, organization_id, span, _columns(group_by), filters, without_models=others)
    spoken = [each for each in sums if each.num_requests]  # what is left is training, which is no completion
    return _page(span, spoken, lambda each: _usage_result(each, group_by))


def embeddings_page(
    context: Context,
    organization_id: str,
    span: Span,
    *,
    group_by: tuple[str, ...],
    filters: dict[str, tuple[Any, ...]],
) -> BucketPage[EmbeddingsResult]:
    known = _embedding_models(context)
    wanted = tuple(name for name in filters.get("model", known) if name in known)
    sums = _sums(context, organization_id, span, _columns(group_by), {**filters, "model": wanted})
    return _page(span, sums, lambda each: _embeddings_result(each, group_by))


def _embedding_models(context: Context) -> tuple[str, ...]:
    """The ledger keeps a model's name: those of the catalog tell which of them embed, also when they are passed on."""
    return tuple(model.name for model in context.catalog if model.embeds)


def _sums(
    context: Context,
    organization_id: str,
    span: Span,
    columns: tuple[str, ...],
    filters: dict[str, tuple[Any, ...]],
    *,
    without_models: tuple[str, ...] = (),
) -> tuple[UsageSum, ...]:
    with read(context.database) as conn:
        return sum_usage(
            conn,
            organization_id,
            width_s=span.width_s,
            start=span.start,
            end=span.end,
            group_by=columns,
            filters=filters,
            without_models=without_models,
        )


def _columns(group_by: Iterable[str]) -> tuple[str, ...]:
    """The ledger's columns among them: there is one service tier and one source."""
    names = {"batch": "is_batch", "line_item": "model"}
    found = (names.get(name, name) for name in group_by)
    return tuple(dict.fromkeys(name for name in found if name not in ("service_tier", "api_source")))


def _page(span: Span, found: Iterable[Timed], to_result: Callable[[Timed], Any]) -> BucketPage[Any]:
    by_start: dict[int, list[Any]] = defaultdict(list)
    for each in found:
        by_start[each.start_time].append(to_result(each))
    buckets = [
        Bucket(start_time=start, end_time=start + span.width_s, results=by_start[start]) for start in span.starts
    ]
    has_more = span.next_start is not None
    return BucketPage(data=buckets, has_more=has_more, next_page=f"page_{span.next_start}" if has_more else None)


def _usage_result(each: UsageSum, group_by: tuple[str, ...]) -> UsageResult:
    usage = each.usage
    return UsageResult(
        num_model_requests=each.num_requests,
        input_tokens=usage.input_tokens,
        input_cached_tokens=usage.cached_tokens,
        input_uncached_tokens=usage.input_tokens - usage.cached_tokens,
        output_tokens=usage.output_tokens,
        input_text_tokens=usage.input_tokens - usage.cached_tokens,
        output_text_tokens=usage.output_tokens,
        **_group(each, group_by),
    )


def _embeddings_result(each: UsageSum, group_by: tuple[str, ...]) -> EmbeddingsResult:
    return EmbeddingsResult(
        num_model_requests=each.num_requests, input_tokens=each.usage.input_tokens, **_group(each, group_by)
    )


def _group(each: UsageSum, group_by: tuple[str, ...]) -> dict[str, Any]:
    constant = {"service_tier": "default", "api_source": "unlabeled"}
    known = {("batch" if name == "is_batch" else name): value for name, value in each.group.items()}
    return {name: value for name in group_by if (value := constant.get(name, known.get(name))) not in (None, "")}


@dataclass(frozen=True)
class CostLine:
    """One line of the bill in one bucket. `cost` in millionths of a millionth of the currency."""

    start_time: int
    group: dict[str, Any]
    line_item: str | None
    cost: int
    quantity: int
    currency: str

    @property
    def amount(self) -> Decimal:
        return Decimal(self.cost) / PICO


def cost_lines(
    context: Context,
    organization_id: str,
    span: Span,
    *,
    group_by: tuple[str, ...],
    filters: dict[str, tuple[Any, ...]],
    line_items: tuple[str, ...] = (),
) -> list[CostLine]:
    """Without line items (neither grouped nor filtered by), one line for each group and bucket."""
    by_item = "line_item" in group_by
    columns = _columns((*group_by, "line_item") if line_items else group_by)
    sums = _sums(context, organization_id, span, columns, filters)
    lines = (
        [line for each in sums for line in _lines(each)] if by_item or line_items else [_total(each) for each in sums]
    )
    lines = [line for line in lines if not line_items or line.line_item in line_items]
    return lines if by_item else _merged(lines, group_by)


def _lines(each: UsageSum) -> list[CostLine]:
    group = {name: value for name, value in each.group.items() if name != "model"}
    lines = []
    for name, cost, tokens in LINES:
        if quantity := tokens(each.usage):
            item = f"{each.group['model']}, {name}"
            lines.append(CostLine(each.start_time, group, item, getattr(each.cost, cost), quantity, each.currency))
    return lines


def _total(each: UsageSum) -> CostLine:
    group = {name: value for name, value in each.group.items() if name != "model"}
    return CostLine(each.start_time, group, None, each.cost.total, 0, each.currency)


def _merged(lines: list[CostLine], group_by: tuple[str, ...]) -> list[CostLine]:
    """One line for each group: the items were only looked at to filter them."""
    totals: dict[tuple[Any, ...], CostLine] = {}
    for line in lines:
        key = (line.start_time, *(line.group.get(name) for name in group_by))
        known = totals.get(key)
        cost = line.cost + (known.cost if known else 0)
        totals[key] = replace(line, cost=cost, line_item=None, quantity=0)
    return list(totals.values())


def cost_page(span: Span, lines: list[CostLine], group_by: tuple[str, ...]) -> BucketPage[CostResult]:
    return _page(span, lines, lambda line: _cost_result(line, group_by))


def _cost_result(line: CostLine, group_by: tuple[str, ...]) -> CostResult:
    group = {name: line.group[name] for name in ("project_id", "user_id", "api_key_id") if line.group.get(name)}
    return CostResult(
        amount=Amount(value=float(line.amount), currency=line.currency),
        line_item=line.line_item,
        quantity=float(line.quantity) if line.line_item else None,
        quantity_unit="tokens" if line.line_item else None,
        api_source="unlabeled" if "api_source" in group_by else None,
        **group,
    )


def spending(context: Context, organization_id: str, project_id: str) -> SpendingOut:
    """Raises NotFound for a project of others."""
    now = context.now()
    start, today = month_start(now), now - now % DAY_S
    first, end = min(start, today - KNOWN_DAYS * DAY_S), _next_month(start)
    with read(context.database) as conn:
        tenants.get_project(conn, project_id, organization_id)
        budget = project_limits(conn, context.settings, project_id).monthly_budget
        only = {"project_id": (project_id,)}
        sums = sum_usage(conn, organization_id, width_s=DAY_S, start=first, end=now + 1, filters=only)
    by_day = {each.start_time: each.cost.total for each in sums}
    before = [by_day.get(day, 0) / PICO for day in range(first, today, DAY_S)]
    month = range(start, today + 1, DAY_S)
    spent = sum(by_day.get(day, 0) for day in month) / PICO
    forecast = month_end(before, spent, (end - now) / DAY_S)
    return SpendingOut(
        project_id=project_id,
        currency=context.prices.currency,
        start_time=start,
        end_time=end,
        days=[DaySpent(start_time=day, amount=by_day.get(day, 0) / PICO) for day in month],
        spent=spent,
        budget=budget / MICRO if budget else None,
        forecast=ForecastOut(mean=forecast.mean, low=forecast.low, high=forecast.high) if forecast else None,
        known_days=len(known_days(before)),
        needed_days=NEEDED_DAYS,
    )


def _next_month(start: int) -> int:
    later = datetime.fromtimestamp(start, UTC) + timedelta(days=31)
    return month_start(later.timestamp())
