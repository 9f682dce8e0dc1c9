"""`tunery costs`: what it costs by the server's price table."""

from typing import Annotated, Any

import typer

from tunery.cli.connection import client_of
from tunery.cli.output import Json, console, emit_json, styled, table, when
from tunery.cli.usage import start_of


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
