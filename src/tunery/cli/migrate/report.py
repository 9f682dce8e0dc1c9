"""`report`: whether one model may take another's place. Kept on the server, for the dashboard, and as an HTML file."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunery.cli.connection import client_of, server_root, tell_weights, visible_catalog
from tunery.cli.migrate.options import Bars, MaxTokens
from tunery.cli.output import Json, console, emit_json, notes, styled, table

if TYPE_CHECKING:
    from openai import OpenAI

    from tunery.domain.parity import Money
    from tunery.migrate.capture import ModelAnswer, Prompt
    from tunery.migrate.report import Report
    from tunery.migrate.report_cost import Tariff, Tariffs

PURPOSE = "evals"
MAX_NAME = 120  # characters of the model's name in the file's


@dataclass(frozen=True)
class StoredReport:
    """Where the report lies on the server."""

    file_id: str
    dashboard: str


def report(
    ctx: typer.Context,
    old: Annotated[Path, typer.Argument(help="The old model's golden file.", exists=True)],
    new: Annotated[str, typer.Argument(help="The new model, on this server.")],
    base: Annotated[str, typer.Option(help="The untrained base, for comparison; '' leaves it out.")] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML report.")] = Path("parity.html"),
    max_tokens: MaxTokens = 512,
    as_json: Json = False,
) -> None:
    """Ask the new model the old one's questions and say whether it is safe to switch. Shown on the dashboard too."""
    from tunery.migrate.capture import Prompt, read_answers
    from tunery.migrate.report import make_report, to_html

    golden = [answer for answer in read_answers(old) if answer.error is None]
    prompts = [Prompt(answer.row, answer.messages, answer.expected, answer.tools) for answer in golden]
    client = client_of(ctx)
    with Bars() as bars:
        new_answers = _ask(client, new, prompts, max_tokens, bars)
        base_answers = _ask(client, base, prompts, max_tokens, bars) if base else None
    tariffs = _tariffs(client, old=golden[0].model if golden else "", new=new, base=base)
    made = make_report(old=golden, new=new_answers, base=base_answers, now=int(time.time()), tariffs=tariffs)
    out.write_text(to_html(made))
    kept = _keep(client, made)
    if as_json:
        address = {"file_id": kept.file_id, "dashboard": kept.dashboard} if kept else {}
        return emit_json({**made.as_json(), "html": str(out), **address})
    _tell(made)
    tell_weights(client, *filter(None, (new, base)))
    notes.print(f"The report with the rows that differ most is {out}.")
    if kept is not None:
        console.print(f"On the dashboard: {kept.dashboard}", soft_wrap=True)


def _ask(client: "OpenAI", model: str, prompts: "list[Prompt]", max_tokens: int, bars: Bars) -> "list[ModelAnswer]":
    from tunery.migrate.capture import capture as ask_all

    return list(
        ask_all(
            client,
            model,
            prompts,
            max_tokens=max_tokens,
            progress=lambda done, total: bars.tell(model, done, total),
        )
    )


def _tariffs(client: "OpenAI", *, old: str, new: str, base: str) -> "Tariffs":
    """The old model's from the shipped table, which holds OpenAI's last prices; the others as this server tells."""
    from tunery.migrate.report_cost import Tariffs

    entries = visible_catalog(client)
    return Tariffs(old=_openai_tariff(old), new=_own_tariff(entries.get(new)), base=_own_tariff(entries.get(base)))


def _openai_tariff(model: str) -> "Tariff | None":
    from tunery.domain.usage import Price
    from tunery.metering.prices import PriceTable
    from tunery.migrate.report_cost import Tariff

    prices = PriceTable.load()
    price = prices.price_of(model, time.time())
    return None if price == Price() else Tariff(prices.currency, price)


def _own_tariff(entry: dict[str, Any] | None) -> "Tariff | None":
    from tunery.domain.usage import MICRO, Price
    from tunery.migrate.report_cost import Tariff

    if entry is None:
        return None
    names = ("input", "cached_input", "output")
    price = Price(**{name: round(entry["price"][name] * MICRO) for name in names})
    return Tariff(entry["price"]["currency"], price)


def _keep(client: "OpenAI", made: "Report") -> StoredReport | None:
    """Stores the report on the server. What was measured and written is not lost when that fails: a note says why."""
    from openai import OpenAIError

    from tunery.migrate.source import explain

    model = re.sub(r"[^A-Za-z0-9._-]+", "-", made.new.model)[:MAX_NAME]
    try:
        stored = client.files.create(file=(f"parity-{model}.jsonl", b"".join(made.as_json_lines())), purpose=PURPOSE)
    except OpenAIError as error:
        notes.print(styled("[yellow]The dashboard does not have this report:[/yellow] {}", explain(error)))
        return None
    return StoredReport(stored.id, f"{server_root(client)}/dashboard/move/{stored.id}")


def _tell(made: "Report") -> None:
    rows: list[tuple[Any, ...]] = [
        (
            role,
            summary.model,
            f"{100 * summary.score.mean:.1f} %",
            f"{100 * summary.score.low:.0f} to {100 * summary.score.high:.0f} %",
            f"{summary.latency_p50_ms:.0f} ms",
            f"{summary.prompt_tokens:,}",
            _money(cost),
            str(summary.num_errors),
        )
        for role, summary, cost in made.models
    ]
    columns = ("", "model", ">score", ">95 % interval", ">latency p50", ">prompt tokens", ">cost of 1,000", ">failed")
    console.print(table(columns, rows, empty=""))
    style = {"yes": "green", "no": "red"}.get(made.decision.safe_to_switch, "yellow")
    console.print(styled(f"Safe to switch: [bold {style}]{{}}[/]", made.decision.safe_to_switch))
    console.print(made.decision.reason)


def _money(cost: "Money | None") -> str:
    return "" if cost is None else f"{cost.amount:.4g} {cost.currency.upper()}"
