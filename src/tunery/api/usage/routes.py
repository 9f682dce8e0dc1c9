import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Response

from tunery.api.access import Admin
from tunery.api.context import ContextDep
from tunery.api.routing import Router
from tunery.api.usage import service
from tunery.api.usage.schemas import BucketPage, CostResult, EmbeddingsResult, SpendingOut, UsageResult

router = Router(tags=["Usage"])

Width = Literal["1m", "1h", "1d"]
UsageGroup = Literal["project_id", "user_id", "api_key_id", "model", "batch", "service_tier", "api_source"]
EmbeddingsGroup = Literal["project_id", "user_id", "api_key_id", "model"]
CostGroup = Literal["project_id", "user_id", "line_item", "api_key_id", "api_source"]
DEFAULT_BUCKETS = {"1m": 60, "1h": 24, "1d": 7}
MAX_BUCKETS = {"1m": 1440, "1h": 168, "1d": 31}
MAX_COST_BUCKETS = 180
CSV: dict[int | str, Any] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}
MAX_CSV_DAYS = 3660

Start = Annotated[int, Query(ge=0, le=10**11, description="Unix seconds, inclusive.")]
End = Annotated[int | None, Query(ge=0, le=10**11, description="Unix seconds, exclusive; now by default.")]
Buckets = Annotated[int | None, Query(ge=0, le=1440, description="Buckets a page.")]
Page = Annotated[str | None, Query(max_length=100, description="`next_page` of the page before.")]


def _many(name: str) -> Any:
    return Query(alias=f"{name}[]", max_length=100)


Ids = list[str] | None
ProjectIds = Annotated[Ids, _many("project_ids")]
UserIds = Annotated[Ids, _many("user_ids")]
KeyIds = Annotated[Ids, _many("api_key_ids")]
Models = Annotated[Ids, _many("models")]
LineItems = Annotated[Ids, _many("line_items")]


def _span(
    context: ContextDep,
    start_time: Start,
    end_time: End = None,
    bucket_width: Width = "1d",
    limit: Buckets = None,
    page: Page = None,
) -> service.Span:
    wanted = DEFAULT_BUCKETS[bucket_width] if limit is None else min(limit, MAX_BUCKETS[bucket_width])
    return service.span_of(start_time, end_time, bucket_width, limit=wanted, page=page, now=context.now())


SpanDep = Annotated[service.Span, Depends(_span)]


@router.get("/v1/organization/usage/completions")
def usage_completions(
    caller: Admin,
    context: ContextDep,
    span: SpanDep,
    group_by: Annotated[list[UsageGroup] | None, _many("group_by")] = None,
    project_ids: ProjectIds = None,
    user_ids: UserIds = None,
    api_key_ids: KeyIds = None,
    models: Models = None,
    batch: bool | None = None,
) -> BucketPage[UsageResult]:
    filters = _filters(project_id=project_ids, user_id=user_ids, api_key_id=api_key_ids, model=models)
    if batch is not None:
        filters["is_batch"] = (batch,)
    return service.usage_page(context, caller.organization_id, span, group_by=tuple(group_by or ()), filters=filters)


@router.get("/v1/organization/usage/embeddings")
def usage_embeddings(
    caller: Admin,
    context: ContextDep,
    span: SpanDep,
    group_by: Annotated[list[EmbeddingsGroup] | None, _many("group_by")] = None,
    project_ids: ProjectIds = None,
    user_ids: UserIds = None,
    api_key_ids: KeyIds = None,
    models: Models = None,
) -> BucketPage[EmbeddingsResult]:
    filters = _filters(project_id=project_ids, user_id=user_ids, api_key_id=api_key_ids, model=models)
    groups = tuple(group_by or ())
    return service.embeddings_page(context, caller.organization_id, span, group_by=groups, filters=filters)


@router.get("/v1/organization/costs")
def costs(
    caller: Admin,
    context: ContextDep,
    start_time: Start,
    end_time: End = None,
    bucket_width: Literal["1d"] = "1d",
    limit: Annotated[int, Query(ge=0, le=MAX_COST_BUCKETS)] = 7,
    page: Page = None,
    group_by: Annotated[list[CostGroup] | None, _many("group_by")] = None,
    project_ids: ProjectIds = None,
    api_key_ids: KeyIds = None,
    line_items: LineItems = None,
) -> BucketPage[CostResult]:
    span = service.span_of(start_time, end_time, bucket_width, limit=limit, page=page, now=context.now())
    groups = tuple(group_by or ())
    lines = service.cost_lines(
        context,
        caller.organization_id,
        span,
        group_by=groups,
        filters=_filters(project_id=project_ids, api_key_id=api_key_ids),
        line_items=tuple(line_items or ()),
    )
    return service.cost_page(span, lines, groups)


def _filters(**values: Ids) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(wanted) for name, wanted in values.items() if wanted}


@router.get("/tunery/v1/organization/usage.csv", response_class=Response, responses=CSV)
def usage_csv(caller: Admin, context: ContextDep, start_time: Start, end_time: End = None) -> Response:
    """Requests and tokens by day, project, key and model."""
    groups = ("project_id", "user_id", "api_key_id", "model", "batch")
    span = service.span_of(start_time, end_time, "1d", limit=MAX_CSV_DAYS, page=None, now=context.now())
    page = service.usage_page(context, caller.organization_id, span, group_by=groups, filters={}, with_embeddings=True)
    numbers = ("num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens")
    rows = (
        (_day(bucket.start_time), *(getattr(result, name) for name in (*groups, *numbers)))
        for bucket in page.data
        for result in bucket.results
    )
    return _csv("usage.csv", ("day", *groups, *numbers), rows)


@router.get("/tunery/v1/organization/costs.csv", response_class=Response, responses=CSV)
def costs_csv(caller: Admin, context: ContextDep, start_time: Start, end_time: End = None) -> Response:
    """The bill by day, project, key and line item; amounts are exact."""
    groups = ("project_id", "user_id", "api_key_id", "line_item")
    span = service.span_of(start_time, end_time, "1d", limit=MAX_CSV_DAYS, page=None, now=context.now())
    lines = service.cost_lines(context, caller.organization_id, span, group_by=groups, filters={})
    rows = (
        (
            _day(line.start_time),
            *(line.group.get(name) for name in groups[:3]),
            *(line.line_item, line.quantity, f"{line.amount:f}", line.currency),
        )
        for line in lines
    )
    return _csv("costs.csv", ("day", *groups, "tokens", "amount", "currency"), rows)


@router.get("/tunery/v1/organization/projects/{project_id}/spending")
def project_spending(project_id: str, caller: Admin, context: ContextDep) -> SpendingOut:
    """The month so far by day, its budget, and what it will have cost by the days before."""
    return service.spending(context, caller.organization_id, project_id)


def _day(start_time: int) -> str:
    return datetime.fromtimestamp(start_time, UTC).date().isoformat()


def _csv(name: str, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Response:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_safe(cell) for cell in row] for row in rows)
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _safe(cell: Any) -> Any:
    """A name that begins like a formula would be run by a spreadsheet."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
