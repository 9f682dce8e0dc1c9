"""Reports, estimates and examples for people at a terminal."""

from rich.text import Text

from tunery.cli.output import console, duration, facts, styled, table
from tunery.datasets.estimate import Estimate
from tunery.datasets.language import language_name
from tunery.datasets.report import Advice, Distribution, Report, TokenCounts
from tunery.datasets.rows import Row
from tunery.texts.amounts import size

MAX_SHOWN = 20  # problems; --json has more
MAX_LINES = 10
BAR_WIDTH = 30
STYLES = {"context": "dim", "trained": "bold green", "cut": "strike red"}


def print_report(report: Report, name: str) -> None:
    verdict = ("green", "good") if report.is_valid else ("red", _counted(report.num_errors, "error"))
    warnings = f", {_counted(report.num_warnings, 'warning')}" if report.num_warnings else ""
    console.print(
        styled(f"[bold]{{}}[/bold]: [{verdict[0]}]{{}}[/]", name, verdict[1])
        + f"{warnings}. {_counted(report.num_examples, 'example')}, {_counted(report.num_lines, 'line')}, "
        + size(report.num_bytes)
    )
    _print_problems(report)
    if report.tokens is not None:
        _print_tokens(report.tokens, report.language)
    print_advice(report.advice)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _print_problems(report: Report) -> None:
    if not report.problems:
        return
    colour = {"error": "red", "warning": "yellow"}
    rows: list[tuple[str, Text, Text]] = []
    suggested: set[str] = set()
    for problem in report.problems[:MAX_SHOWN]:
        text = styled("{} [dim]{}[/dim]", problem.message, problem.path)
        if problem.code not in suggested:  # once is enough
            suggested.add(problem.code)
            text += styled("\n[dim]{}[/dim]", problem.suggestion)
        rows.append((str(problem.line or "–"), Text(problem.code, colour[problem.severity]), text))
    console.print(table((">line", "code", "problem"), rows, empty=""))
    hidden = report.problem_counts.total() - len(rows)
    if hidden > 0:
        counts = ", ".join(f"{code} {count:,}" for code, count in report.problem_counts.most_common())
        console.print(f"… and {hidden:,} more. In all: {counts}", soft_wrap=True)


def _print_tokens(counts: TokenCounts, language: str | None) -> None:
    tokens, trained = counts.tokens, counts.trained_tokens
    pairs: list[tuple[str, str | Text]] = [
        ("tokens an epoch", f"{tokens.total:,}"),
        ("trained tokens", f"{trained.total:,} ({trained.total / max(1, tokens.total):.0%})"),
        ("per example", f"{tokens.min:,} to {tokens.max:,}, half of them up to {tokens.median:,}"),
        ("shared beginning", f"{counts.num_prefix_tokens:,} tokens, {counts.prefix_share:.0%} of all"),
    ]
    if counts.tokens_per_character is not None:
        name = f"{language_name(language)}, " if language else ""
        pairs.append(("language", f"{name}{counts.tokens_per_character:.2f} tokens a character"))
    if counts.num_truncated_examples:
        cut = f"{counts.num_truncated_examples:,} examples lose {counts.num_truncated_tokens:,} tokens"
        pairs.append(("cut", styled("[yellow]{}[/yellow] (limit {})", cut, f"{counts.max_example_tokens:,}")))
    console.print(facts(pairs))
    _print_histogram(tokens)


def _print_histogram(tokens: Distribution) -> None:
    if len(tokens.histogram) < 2:
        return
    most = max(entry["count"] for entry in tokens.histogram)
    rows = [
        (f"{entry['from']:,}–{entry['to']:,}", "█" * round(BAR_WIDTH * entry["count"] / most), f"{entry['count']:,}")
        for entry in tokens.histogram
    ]
    console.print(table((">tokens", "examples", ""), rows, empty=""))


def print_advice(advice: list[Advice]) -> None:
    for item in advice:
        console.print(styled("[yellow]•[/yellow] {} {}", item.message, item.suggestion))
        for evidence in item.evidence:
            console.print(styled("    [dim]{}[/dim]", evidence))
        if item.lines:
            lines = ", ".join(map(str, item.lines[:MAX_LINES]))
            more = " …" if item.count > MAX_LINES else ""
            console.print(styled("    [dim]lines {}{}[/dim]", lines, more))


def print_estimate(found: Estimate, model: str) -> None:
    chosen, reasons = found.hyperparameters, found.hyperparameters.reasons
    basis = f"from {found.num_measured_jobs} job(s) on this machine" if found.num_measured_jobs else "a rough guess"
    console.print(
        facts(
            [
                ("model", model),
                ("examples", f"{found.num_examples:,}"),
                ("epochs", styled("{} [dim]{}[/dim]", chosen.n_epochs, reasons["n_epochs"])),
                ("batch size", styled("{} [dim]{}[/dim]", chosen.batch_size, reasons["batch_size"])),
                (
                    "learning rate ×",
                    styled(
                        "{} [dim]{}[/dim]",
                        f"{chosen.learning_rate_multiplier:g}",
                        reasons["learning_rate_multiplier"],
                    ),
                ),
                ("steps", f"{found.num_steps:,}"),
                ("trained tokens", f"{found.trained_tokens:,}"),
                ("price", f"{found.cost:.4f} {found.currency.upper()}"),
                ("time", styled("{} to {} [dim]{}[/dim]", duration(found.min_s), duration(found.max_s), basis)),
                ("memory", size(found.peak_memory_bytes)),
            ]
        )
    )
    print_advice(found.advice)


def print_row(row: Row) -> None:
    counts = "" if row.num_tokens is None else f": {row.num_tokens:,} tokens, {row.num_trained_tokens:,} trained"
    console.rule(f"line {row.line}{counts}", align="left")
    for problem in row.problems:
        console.print(styled("[red]{}[/red] {}", problem.code, problem.message))
    text = Text()
    for part in row.segments:
        text.append(part.text, STYLES[part.kind])
    console.print(text)
