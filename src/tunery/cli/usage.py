"""`tunery usage` and `tunery costs`: tokens and requests, and their cost by the server's price table."""

import time
from typing import Annotated, Any

import typer

from tunery.cli.connection import client_of
from tunery.cli.output import Json, console, emit_json, styled, table, when

DAY_S = 86_400

Days = Annotated[int, typer.Option(min=1, max=31, help="How many days back.")]


def usage(
    ctx: typer.Context,
    days: Days = 7,
    by: Annotated[str, typer.Option(help="model, project_id, user_id or api_key_id.")] = "model",
    as_json: Json = False,
) -> None:
    """Show tokens and requests of each day."""
    usage = client_of(ctx).admin.organization.usage
    asked: dict[str, Any] = {"start_time": start_of(days), "bucket_width": "1d", "group_by": [by], "limit": days}
    page, embedded = usage.completions(**asked), usage.embeddings(**asked)
    for bucket, more in zip(page.data, embedded.data, strict=True):
        results: list[Any] = bucket.results
        results += more.results
    if as_json:
        return emit_json(page)
    rows = []
    for bucket in page.data:
        for result in bucket.results:
            row = result.to_dict()
            numbers = ("num_model_requests", "input_tokens", "input_cached_tokens", "output_tokens")
            rows.append(
                (
                    when(bucket.start_time)[:10],
                    str(row.get(by) or "-"),
                    *(f"{row.get(name) or 0:,}" for name in numbers),
                )
            )
    columns = ("day", by, ">requests", ">input", ">cached", ">output")
    console.print(table(columns, rows, empty=f"Nothing was used in the last {days} days."))


def costs(
    ctx: typer.Context,
    days: Annotated[int, typer.Option(min=1, max=180, help="How many days back.")] = 7,
    by: Annotated[str, typer.Option(help="line_item, project_id or api_key_id.")] = "line_item",
    as_json: Json = False,
) -> None:
    """Show the cost of each day."""
    page = client_of(ctx).admin.organization.usage.costs(
        start_time=start_of(days),
        group_by=[by],  # type: ignore[list-item]
        limit=days,
    )
    if as_json:
        return emit_json(page)
    rows, total, currency = [], 0.0, ""
    for bucket in page.data:
        for result in bucket.results:
            row = result.to_dict()
            amount: dict[str, Any] = row.get("amount") or {}  # type: ignore[assignment]
            value, currency = float(amount.get("value") or 0), str(amount.get("currency") or currency).upper()
            total += value
            rows.append((when(bucket.start_time)[:10], str(row.get(by) or "-"), f"{value:.6f}"))
    if rows:
        rows.append(("", styled("[bold]total[/bold]"), styled("[bold]{}[/bold]", f"{total:.6f}")))
    console.print(table(("day", by, f">{currency or 'cost'}"), rows, empty=f"No costs in the last {days} days."))


def start_of(days: int) -> int:
    """Midnight UTC, so that today counts as the last of `days` days."""
    return (int(time.time()) // DAY_S - days + 1) * DAY_S
