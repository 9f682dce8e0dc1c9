"""`capture` and `report`: how models answer, and whether one may take another's place."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from tunery.cli.connection import client_of
from tunery.cli.migrate.options import OPENAI, Bars, SourceKey, SourceUrl, source_client
from tunery.cli.output import Json, console, emit_json, notes, table

if TYPE_CHECKING:
    from openai import OpenAI

    from tunery.domain.usage import Price
    from tunery.migrate.capture import Golden, Prompt
    from tunery.migrate.report import Report

Rows = Annotated[Path, typer.Argument(help="Chat JSONL; a last assistant message is the expected answer.", exists=True)]
MaxTokens = Annotated[int, typer.Option(help="The longest answer.", min=1)]


def capture(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="The model to ask, such as `ft:gpt-4o-mini-2024-07-18:acme::AbC12345`.")],
    rows: Rows,
    out: Annotated[Path, typer.Option("--out", "-o", help="The golden file; answers are appended.")] = Path(
        "old.golden.jsonl"
    ),
    here: Annotated[bool, typer.Option("--here", help="Ask this server, not the old account.")] = False,
    sample: Annotated[int | None, typer.Option(help="Ask only so many rows, evenly spread.", min=1)] = None,
    cap: Annotated[
        float | None, typer.Option(help="Stop when so much is spent, in the price table's currency.")
    ] = None,
    max_tokens: MaxTokens = 512,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before spending.")] = False,
    source_key: SourceKey = "",
    source_url: SourceUrl = OPENAI,
    as_json: Json = False,
) -> None:
    """Ask a model the questions of a file and keep its answers, log-probabilities and usage."""
    from tunery.domain.usage import PICO
    from tunery.migrate.capture import capture as ask_all
    from tunery.migrate.capture import cost_of, estimate_cost, read_golden, read_prompts, write_golden

    prompts = read_prompts(rows, limit=sample)
    known = {golden.row for golden in read_golden(out) if golden.error is None} if out.exists() else set()
    prompts = [prompt for prompt in prompts if prompt.row not in known]
    currency, price = _price(model)
    estimate = estimate_cost(prompts, price, max_tokens=max_tokens) / PICO
    notes.print(f"{len(prompts)} rows to ask ({len(known)} are in {out}), at most about {estimate:.4f} {currency}.")
    if prompts and estimate > 0 and not yes:
        typer.confirm("Go on?", abort=True, err=True)
    client = client_of(ctx) if here else source_client(source_url, source_key)
    with Bars() as bars:
        answers = write_golden(
            out,
            ask_all(
                client,
                model,
                prompts,
                max_tokens=max_tokens,
                price=price,
                cap=None if cap is None else int(cap * PICO),
                progress=lambda done, total: bars.tell("answers", done, total),
            ),
        )
    spent = sum(cost_of(golden, price) for golden in answers) / PICO
    _tell_captured(out, answers, wanted=len(prompts), spent=f"{spent:.4f} {currency}", as_json=as_json)


def _price(model: str) -> "tuple[str, Price]":
    from tunery.metering.prices import PriceTable
    from tunery.settings import load_settings

    prices = PriceTable.load(load_settings().prices)
    return prices.currency, prices.price_of(model, time.time())


def _tell_captured(out: Path, answers: "list[Golden]", *, wanted: int, spent: str, as_json: bool) -> None:
    failed = [golden for golden in answers if golden.error]
    if as_json:
        return emit_json({"file": str(out), "asked": len(answers), "failed": len(failed), "spent": spent})
    console.print(f"{len(answers) - len(failed)} answers in {out}; spent {spent}.")
    for golden in failed[:5]:
        notes.print(f"[yellow]row {golden.row}:[/yellow] {escape(golden.error or '')}")
    if failed:
        notes.print(f"{len(failed)} rows failed: run the command again to ask them.")
    if len(answers) < wanted:
        notes.print(f"The cap was reached with {wanted - len(answers)} rows left.")
    notes.print("Next: `tunery migrate openai retrain`.")


def recorded(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The name whose requests were passed on to OpenAI.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The golden file; answers are appended.")] = Path(
        "old.golden.jsonl"
    ),
    as_json: Json = False,
) -> None:
    """Turn the real traffic that this server passed on to OpenAI into a golden file."""
    from tunery.migrate.capture import recorded_answers, write_golden

    with notes.status("Reading stored completions…"):
        answers = write_golden(out, recorded_answers(client_of(ctx), name))
    if as_json:
        return emit_json({"file": str(out), "answers": len(answers)})
    console.print(f"{len(answers)} answers in {out}." if answers else f"No answer of {name} is stored here yet.")


def report(
    ctx: typer.Context,
    old: Annotated[Path, typer.Argument(help="The old model's golden file.", exists=True)],
    new: Annotated[str, typer.Argument(help="The new model, on this server.")],
    base: Annotated[str, typer.Option(help="The untrained base, for comparison; '' leaves it out.")] = "",
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML report.")] = Path("parity.html"),
    max_tokens: MaxTokens = 512,
    as_json: Json = False,
) -> None:
    """Ask the new model the old one's questions and say whether it is safe to switch."""
    from tunery.migrate.capture import Prompt, read_golden
    from tunery.migrate.report import make_report, to_html

    golden = [answer for answer in read_golden(old) if answer.error is None]
    prompts = [Prompt(answer.row, answer.messages, answer.expected) for answer in golden]
    client = client_of(ctx)
    with Bars() as bars:
        new_answers = _ask(client, new, prompts, max_tokens, bars)
        base_answers = _ask(client, base, prompts, max_tokens, bars) if base else None
    made = make_report(old=golden, new=new_answers, base=base_answers, now=int(time.time()))
    out.write_text(to_html(made))
    if as_json:
        return emit_json({**made.as_json(), "html": str(out)})
    _tell_report(made, out)


def _ask(client: "OpenAI", model: str, prompts: "list[Prompt]", max_tokens: int, bars: Bars) -> "list[Golden]":
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


def _tell_report(made: "Report", out: Path) -> None:
    rows: list[tuple[Any, ...]] = []
    for role, summary in (("old", made.old), ("base", made.base), ("new", made.new)):
        if summary is not None:
            score = summary.score
            rows.append(
                (
                    role,
                    summary.model,
                    f"{100 * score.mean:.1f} %",
                    f"{100 * score.low:.0f} to {100 * score.high:.0f} %",
                    f"{summary.latency_p50_ms:.0f} ms",
                    f"{summary.prompt_tokens:,}",
                    str(summary.num_errors),
                )
            )
    columns = ("", "model", ">score", ">95 % interval", ">latency p50", ">prompt tokens", ">failed")
    console.print(table(columns, rows, empty=""))
    style = {"yes": "green", "no": "red"}.get(made.decision.safe_to_switch, "yellow")
    console.print(f"Safe to switch: [bold {style}]{made.decision.safe_to_switch}[/bold {style}]")
    console.print(escape(made.decision.reason))
    notes.print(f"The report with the rows that differ most is {out}.")
