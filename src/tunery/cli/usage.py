"""`tunery usage` and `tunery costs`: tokens and requests, and their cost by the server's price table."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from tunery.cli.connection import client_of, get_own, visible_catalog, weights_of
from tunery.cli.output import Json, console, emit_json, styled, table, when

if TYPE_CHECKING:
    from openai import OpenAI

DAY_S = 86_400
TOKENS = ("input_tokens", "input_cached_tokens", "output_tokens")
OF_MODELS = ("model", "line_item")  # groups that name models: their weights stand beside them

Days = Annotated[int, typer.Option(min=1, max=31, help="How many days back.")]


def usage(
    ctx: typer.Context,
    days: Days = 7,
    by: Annotated[str, typer.Option(help="model, project_id, user_id or api_key_id.")] = "model",
    as_json: Json = False,
) -> None:
    """Show tokens and requests of each day."""
    client = client_of(ctx)
    asked: Any = {"start_time": start_of(days), "bucket_width": "1d", "group_by": [by], "limit": days}
    of = client.admin.organization.usage
    page, embedded = of.completions(**asked), of.embeddings(**asked)
    for bucket, more in zip(page.data, embedded.data, strict=True):
        results: list[Any] = bucket.results
        results += more.results
    if as_json:
        return emit_json(page)
    rows = [
        (*named, *(f"{row.get(name) or 0:,}" for name in ("num_model_requests", *TOKENS)))
        for named, row in _results(client, page, by)
    ]
    columns = ("day", *_columns(by), ">requests", ">input", ">cached", ">output")
    console.print(table(columns, rows, empty=f"Nothing was used in the last {days} days."))


def costs(
    ctx: typer.Context,
    days: Annotated[int, typer.Option(min=1, max=180, help="How many days back.")] = 7,
    by: Annotated[str, typer.Option(help="line_item, user_id, project_id or api_key_id.")] = "line_item",
    as_json: Json = False,
) -> None:
    """Show the cost of each day, and what this month will have cost."""
    client = client_of(ctx)
    asked: Any = {"start_time": start_of(days), "group_by": [by], "limit": days}
    page = client.admin.organization.usage.costs(**asked)
    if as_json:
        return emit_json(page)
    rows: list[tuple[str | Text, ...]] = []
    total, currency = 0.0, ""
    for named, row in _results(client, page, by):
        amount = row.get("amount") or {}
        value, currency = float(amount.get("value") or 0), str(amount.get("currency") or currency).upper()
        total += value
        rows.append((*named, f"{value:.6f}"))
    if rows:
        *before, _, _ = rows[0]
        rows.append((*[""] * len(before), styled("[bold]total[/bold]"), styled("[bold]{}[/bold]", f"{total:.6f}")))
    columns = ("day", *_columns(by), f">{currency or 'cost'}")
    console.print(table(columns, rows, empty=f"No costs in the last {days} days."))
    console.print(_month(client))


def _month(client: "OpenAI") -> str:
    """Of the key's project: spent, budget and forecast, and what the forecast is made of."""
    project = get_own(client, "/session")["project_id"]
    found = get_own(client, f"/organization/projects/{project}/spending")
    spent, forecast = f"{found['spent']:.2f}", found["forecast"]
    budget = "no budget" if found["budget"] is None else f"budget {found['budget']:.2f}"
    line = f"This month in {project}: {spent} {found['currency'].upper()} spent, {budget}. "
    if forecast is None:
        return line + f"No forecast yet: {found['known_days']} of {found['needed_days']} whole days are known."
    low, mean, high = (f"{forecast[name]:.2f}" for name in ("low", "mean", "high"))
    made = f"each day left as the mean of {found['known_days']} days before today"
    return line + f"Forecast of the month: {mean} (95 % interval: {low} to {high}), {made}."


def _columns(by: str) -> tuple[str, ...]:
    return (by, "weights") if by in OF_MODELS else (by,)


def _results(client: "OpenAI", page: Any, by: str) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Of each day each result, behind its day and what it is about; of a model the weights too. A line item is the
    model's name, a comma and what was paid for."""
    known = visible_catalog(client) if by in OF_MODELS else {}
    for bucket in page.data:
        for result in bucket.results:
            row = result.to_dict()
            value = str(row.get(by) or "-")
            name = value.rpartition(", ")[0] if by == "line_item" else value
            about = (value, weights_of(known.get(name))) if by in OF_MODELS else (value,)
            yield (when(bucket.start_time)[:10], *about), row


def start_of(days: int) -> int:
    """Midnight UTC, so that today counts as the last of `days` days."""
    return (int(time.time()) // DAY_S - days + 1) * DAY_S
