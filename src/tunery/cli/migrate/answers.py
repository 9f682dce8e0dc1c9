"""`capture` and `recorded`: how the old models answer, kept as files."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tunery.cli.connection import client_of
from tunery.cli.migrate.options import OPENAI, Bars, MaxTokens, SourceKey, SourceUrl, source_client
from tunery.cli.output import Json, console, emit_json, notes, styled

if TYPE_CHECKING:
    from tunery.domain.usage import Price
    from tunery.migrate.capture import ModelAnswer

Rows = Annotated[Path, typer.Argument(help="Chat JSONL; a last assistant message is the expected answer.", exists=True)]


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
    api: Annotated[Literal["chat", "responses"], typer.Option(help="Ask through this API.")] = "chat",
    max_tokens: MaxTokens = 512,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before spending.")] = False,
    source_key: SourceKey = "",
    source_url: SourceUrl = OPENAI,
    as_json: Json = False,
) -> None:
    """Ask a model the questions of a file and keep its answers, log-probabilities and usage."""
    from tunery.domain.usage import PICO
    from tunery.migrate.capture import capture as ask_all
    from tunery.migrate.capture import cost_of, estimate_cost, read_answers, read_prompts, write_answers

    prompts = read_prompts(rows, limit=sample)
    known = {answer.row for answer in read_answers(out) if answer.error is None} if out.exists() else set()
    prompts = [prompt for prompt in prompts if prompt.row not in known]
    currency, price = _price(model)
    estimate = estimate_cost(prompts, price, max_tokens=max_tokens) / PICO
    notes.print(f"{len(prompts)} rows to ask ({len(known)} are in {out}), at most about {estimate:.4f} {currency}.")
    if prompts and estimate > 0 and not yes:
        typer.confirm("Go on?", abort=True, err=True)
    client = client_of(ctx) if here else source_client(source_url, source_key)
    with Bars() as bars:
        answers = write_answers(
            out,
            ask_all(
                client,
                model,
                prompts,
                api=api,
                max_tokens=max_tokens,
                price=price,
                cap=None if cap is None else int(cap * PICO),
                progress=lambda done, total: bars.tell("answers", done, total),
            ),
        )
    spent = sum(cost_of(answer, price) for answer in answers) / PICO
    _tell_captured(out, answers, wanted=len(prompts), spent=f"{spent:.4f} {currency}", as_json=as_json)


def _price(model: str) -> "tuple[str, Price]":
    from tunery.metering.prices import PriceTable
    from tunery.settings import load_settings

    prices = PriceTable.load(load_settings().prices)
    return prices.currency, prices.price_of(model, time.time())


def _tell_captured(out: Path, answers: "list[ModelAnswer]", *, wanted: int, spent: str, as_json: bool) -> None:
    failed = [answer for answer in answers if answer.error]
    if as_json:
        return emit_json({"file": str(out), "asked": len(answers), "failed": len(failed), "spent": spent})
    console.print(f"{len(answers) - len(failed)} answers in {out}; spent {spent}.")
    for answer in failed[:5]:
        notes.print(styled("[yellow]row {}:[/yellow] {}", answer.row, answer.error or ""))
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
    from tunery.migrate.capture import recorded_answers, write_answers

    with notes.status("Reading stored completions…"):
        answers = write_answers(out, recorded_answers(client_of(ctx), name))
    if as_json:
        return emit_json({"file": str(out), "answers": len(answers)})
    console.print(f"{len(answers)} answers in {out}." if answers else f"No answer of {name} is stored here yet.")
