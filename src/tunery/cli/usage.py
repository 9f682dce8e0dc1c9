"""`tunery usage`: tokens and requests."""

import time
from typing import Annotated

import typer

from tunery.cli.connection import client_of
from tunery.cli.output import Json, console, emit_json, table, when

DAY_S = 86_400

Days = Annotated[int, typer.Option(min=1, max=31, help="How many days back.")]


def usage(
    ctx: typer.Context,
    days: Days = 7,
    by: Annotated[str, typer.Option(help="model, project_id, user_id or api_key_id.")] = "model",
    as_json: Json = False,
) -> None:
    """Show tokens and requests of each day."""
    page = client_of(ctx).admin.organization.usage.completions(
        start_time=start_of(days),
        bucket_width="1d",
        group_by=[by],  # type: ignore[list-item]
        limit=days,
    )
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


def start_of(days: int) -> int:
    """Midnight UTC, so that today counts as the last of `days` days."""
    return (int(time.time()) // DAY_S - days + 1) * DAY_S
