"""`tunery improve JOB`: what could make a finished job's model better, each with its price before it starts."""

import sys
from dataclasses import asdict
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated

import typer

from tunery.cli.connection import CommandFailed, client_of, get_own, post_own
from tunery.cli.output import Json, console, duration, emit_json, notes, table
from tunery.cli.watch import watch
from tunery.domain.errors import InvalidRequest
from tunery.improve.proposals import Forecast, What, act_of, forecasts

if TYPE_CHECKING:
    from tunery.domain.intervals import Interval
    from tunery.improve.curve import LearningCurve
    from tunery.improve.jobs import Price, Subject
    from tunery.improve.prompt import PromptOrData, Way
    from tunery.improve.rows import Doubts
    from tunery.improve.sweep import Sweep


ASKS = {
    What.ROWS: "Which rows are bad?",
    What.CURVE: "What would more rows bring?",
    What.SWEEP: "Which learning rate, how many epochs?",
    What.PROMPT: "Would a better prompt do without tuning?",
}


def improve(
    ctx: typer.Context,
    job_id: Annotated[str, typer.Argument(help="A job that has succeeded, `ftjob-…`.")],
    what: Annotated[
        What | None, typer.Argument(help="What to find out; without it, what each would cost and how long take.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Doubtful rows to list.")] = 30,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Find out what would make a finished job's model better. What is trained for it are ordinary jobs."""
    from tunery.improve.asking import seconds_a_token
    from tunery.improve.jobs import Server, open_job

    client = client_of(ctx)
    subject = open_job(Server(client, partial(get_own, client), partial(post_own, client)), job_id)
    pace = cache(partial(seconds_a_token, subject))
    if what is None:
        return _overview(subject, forecasts(subject, pace), as_json)
    forecast = forecasts(subject, pace, [what])[what]
    if not isinstance(forecast, Forecast):
        raise forecast
    _agree(forecast, yes)
    act = act_of(what)
    job_ids = act.start(subject)
    for made in job_ids:
        watch(client, made, notes)
    with notes.status("Comparing …"):
        result = act.read(subject, job_ids, **({"most": top} if what is What.ROWS else {}))
    if as_json:
        emit_json({**asdict(result), "jobs": job_ids})
    else:
        SHOWN[what](result)


def _overview(subject: "Subject", found: dict[What, Forecast | InvalidRequest], as_json: bool) -> None:
    rows, documents = [], []
    for what, forecast in found.items():
        if not isinstance(forecast, Forecast):
            documents.append({"what": what, "refused": forecast.message})
            rows.append((what, ASKS[what], "", forecast.message, ""))
            continue
        jobs, price = [part.name for part in forecast.parts], forecast.price
        documents.append({"what": what, "jobs": jobs, **asdict(price)})
        rows.append((what, ASKS[what], str(len(jobs)), _cost(price), _time(price)))
    if as_json:
        return emit_json(documents)
    console.print(table(("what", "question", ">new jobs", "price", "time"), rows, empty=""))
    console.print(f"\nStart one with: tunery improve {subject.job.id} rows", soft_wrap=True)


def _agree(forecast: Forecast, yes: bool) -> None:
    """Says what it comes to. Raises CommandFailed where nobody can be asked, and typer.Abort when they decline."""
    parts, price = forecast.parts, forecast.price
    names = ", ".join(part.name for part in parts)
    jobs = f"{len(parts)} new jobs ({names})" if len(parts) != 1 else f"1 new job ({names})"
    notes.print(f"{jobs if parts else 'No new jobs'}, {_cost(price)}, {_time(price)}.", soft_wrap=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed("Nothing was started: give --yes to agree.")
    typer.confirm("Start?", abort=True, err=True)


def _cost(price: "Price") -> str:
    return f"at most {price.cost:.4f} {price.currency.upper()}"


def _time(price: "Price") -> str:
    return f"{duration(price.min_s)} to {duration(price.max_s)}"


# ---- what was found


def _show_rows(found: "Doubts") -> None:
    rows = [
        (
            str(doubt.line),
            f"{doubt.likelihood:.1%}",
            f"{doubt.alike:.0%}" if doubt.alike is not None else "",
            doubt.answer,
            f"{doubt.own_answer} ({doubt.own_likelihood:.0%})" if doubt.contradicts else "",
            f"line {doubt.near}" if doubt.near else "",
            doubt.question,
        )
        for doubt in found.rows
    ]
    columns = (">line", ">likely", ">by rows alike", "answer in the file", "the model says", "contradicts", "question")
    console.print(table(columns, rows, empty="No rows."))
    console.print("\nRead these first. A wrong one is mended in the file, a right one tells what the model finds hard.")


def _show_curve(curve: "LearningCurve") -> None:
    rows = [(each.part, f"{each.num_rows:,}", f"{each.loss:.4f}", f"{each.accuracy:.1%}") for each in curve.parts]
    console.print(table(("part", ">rows", ">validation loss", ">token accuracy"), rows, empty=""))
    verdict = "as foretold" if curve.holds else "NOT as foretold: do not rely on the next line"
    console.print(
        f"\nFrom the parts, all rows should have had a loss of {_between(curve.expected, '.4f')}; "
        f"measured {curve.measured.loss:.4f}, {verdict}.",
        soft_wrap=True,
    )
    console.print(
        f"Twice the rows: a loss of {_between(curve.doubled, '.4f')}, {_between(curve.gain, '+.0%')} less.",
        soft_wrap=True,
    )


def _show_sweep(sweep: "Sweep") -> None:
    rows = [
        (
            f"{each.learning_rate_multiplier:g}",
            f"{each.best_epoch} of {each.n_epochs}",
            f"{each.best.loss:.4f}",
            f"{each.best.accuracy:.1%}",
            each.best.model,
        )
        for each in sweep.tried
    ]
    columns = (">learning rate ×", "best epoch", ">validation loss", ">token accuracy", "model")
    was = sweep.as_it_was
    console.print(
        table(columns, [*rows, ("as it was", "", f"{was.loss:.4f}", f"{was.accuracy:.1%}", was.model)], empty="")
    )
    verdict = "better than" if sweep.is_better else "not surely better than"
    console.print(
        f"\nThe best is {verdict} the job as it was: {_between(sweep.difference, '+.4f')} of log-likelihood a token of "
        "an answer. It was chosen on the rows that it is measured on, which flatters it a little.",
        soft_wrap=True,
    )


def _show_prompt(found: "PromptOrData") -> None:
    def row(way: "Way") -> tuple[str, str, str]:
        return way.name, _between(way.correct, ".0%"), f"{way.prompt_tokens:.0f}"

    ways = [row(found.tuned), *map(row, found.base)]
    console.print(table((f"{found.num_rows} rows held back", "exact answers", ">prompt tokens"), ways, empty=""))
    better = "Tuning is worth it" if found.difference.low > 0 else "A prompt may do"
    console.print(
        f"\n{better}: tuned minus the best prompt is {_between(found.difference, '+.0%')} of exact answers.",
        soft_wrap=True,
    )


SHOWN = {What.ROWS: _show_rows, What.CURVE: _show_curve, What.SWEEP: _show_sweep, What.PROMPT: _show_prompt}


def _between(interval: "Interval", form: str) -> str:
    return f"{interval.mean:{form}} ({interval.low:{form}} to {interval.high:{form}})"
