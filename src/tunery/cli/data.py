"""`tunery data`: look at training files before a job does. Works on this machine; no server is asked.

Most imports stand inside the commands: numpy and the tokenizer take half a second that `--help` need not pay.
"""

import json
import sys
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from tunery.cli.data_files import refuse_overwriting, whole_file
from tunery.cli.output import Json, console, emit_json, notes, styled
from tunery.domain.jobs import METHODS, Method

if TYPE_CHECKING:
    from tunery.datasets.prepare import Mapping, Prepared
    from tunery.datasets.tables import Table

app = typer.Typer(no_args_is_help=True, help="Prepare, check, price and split training files, on this machine.")

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="A JSONL file.")]
Model = Annotated[str, typer.Option("--model", "-m", help="The model to be trained: its base counts the tokens.")]
MethodName = Annotated[str, typer.Option(help="`supervised` or `dpo`.")]
Validation = Annotated[
    Path | None, typer.Option("--validation", exists=True, dir_okay=False, help="The validation file of the same job.")
]
Number = Annotated[str, typer.Option(help="A number or `auto`.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")]
MAX_SHOWN = 10
DEFAULT_MODEL = "gpt-4o-mini-2024-07-18"


@app.command()
def check(
    file: File,
    validation: Validation = None,
    model: Model = DEFAULT_MODEL,
    method: MethodName = "supervised",
    no_tokens: Annotated[
        bool, typer.Option("--no-tokens", help="Leave the tokens uncounted: needs no model on this machine.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Report every problem of a file, what it comes to in tokens, and advice. Exit code 1 when a job would fail."""
    from tunery.cli.data_view import print_report
    from tunery.cli.data_work import make_reports, open_base

    reports = make_reports(file, validation, None if no_tokens else open_base(model), _method(method))
    if as_json:
        emit_json({report.role: report.to_dict() for report in reports})
    else:
        for report, path in zip(reports, (file, validation), strict=False):
            print_report(report, str(path))
    if not all(report.is_valid for report in reports):
        raise typer.Exit(1)


@app.command("estimate")
def estimate_job(
    file: File,
    validation: Validation = None,
    model: Model = DEFAULT_MODEL,
    method: MethodName = "supervised",
    epochs: Number = "auto",
    batch_size: Number = "auto",
    as_json: Json = False,
) -> None:
    """Say what a job on a file will come to: steps, tokens, price, time, memory. Creates nothing."""
    from tunery.cli.data_view import print_estimate
    from tunery.cli.data_work import estimate_here

    chosen = {"n_epochs": _whole("--epochs", epochs), "batch_size": _whole("--batch-size", batch_size)}
    found = estimate_here(file, validation, model, method, chosen)
    if as_json:
        return emit_json({"model": model, "method": method, **found.to_dict()})
    print_estimate(found, model)


@app.command("prepare")
def prepare_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, TSV, JSON, JSONL, Parquet or XLSX.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="FILE-chat.jsonl unless told otherwise.")
    ] = None,
    user: Annotated[str, typer.Option(help="The column of questions; guessed from the names.")] = "",
    assistant: Annotated[str, typer.Option(help="The column of answers; guessed from the names.")] = "",
    rejected: Annotated[str, typer.Option(help="The column of worse answers, which makes pairs for DPO.")] = "",
    system: Annotated[str, typer.Option(help="A system message for every row that has none.")] = "",
    system_column: Annotated[str, typer.Option(help="The column of system messages.")] = "",
    history: Annotated[str, typer.Option(help="The column of earlier turns: messages, pairs or a transcript.")] = "",
    encoding: Annotated[str, typer.Option(help="Such as cp932; found out from the file when not given.")] = "",
    sheet: Annotated[str, typer.Option(help="Of a workbook; the first with a table unless told otherwise.")] = "",
    header_row: Annotated[int, typer.Option(min=0, help="The row of the columns' names; found out when 0.")] = 0,
    force: Force = False,
) -> None:
    """Turn a table into chat JSONL, or pairs of answers for DPO. Rows that lack one are left out and counted."""
    from tunery.datasets.prepare import Mapping
    from tunery.datasets.tables import open_table

    if bool(user) != bool(assistant):
        raise typer.BadParameter("--user and --assistant go together")
    mapping = Mapping(user, assistant, system_column, rejected=rejected, history=history)
    target = output or file.with_name(f"{file.stem}-chat.jsonl")
    refuse_overwriting(file, target, force=force)
    num_rows = 0
    with open_table(file, encoding=encoding, sheet=sheet, header_row=header_row) as table:
        _tell_how_read(table, encoding, sheet)
        prepared = _prepared(table, mapping, system)
        with whole_file(target) as out:
            for row in prepared:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
                num_rows += 1
    if prepared.skipped:
        rows = ", ".join(str(each.row) for each in prepared.skipped[:MAX_SHOWN])
        more = " …" if len(prepared.skipped) > MAX_SHOWN else ""
        total = num_rows + len(prepared.skipped)
        left_out = f"{len(prepared.skipped):,} of {total:,} rows left out (row {rows}{more})"
        notes.print(f"{left_out}: {prepared.skipped[0].reason}")
    console.print(
        styled(
            "{} rows written to {}. Next: [bold]tunery data check {}{}[/bold]",
            *(f"{num_rows:,}", target, target, " --method dpo" if prepared.mapping.rejected else ""),
        )
    )


def _tell_how_read(table: "Table", encoding: str, sheet: str) -> None:
    """What was found out."""
    from tunery.datasets.encodings import UTF_8

    if table.encoding not in (encoding, UTF_8):
        notes.print(f"{table.name} is read as {table.encoding}; --encoding says otherwise.")
    if len(table.sheets) > 1 and not sheet:
        others = ", ".join(repr(name) for name in table.sheets if name != table.sheet)
        notes.print(f"Sheet {table.sheet!r} is read; --sheet takes another: {others}.")
    for note in table.notes:
        notes.print(str(note))


def _prepared(table: "Table", mapping: "Mapping", system: str) -> "Prepared":
    """Asks for the columns when none is telling and somebody is there to answer."""
    from tunery.datasets.prepare import SAMPLE, UnclearColumns, prepare

    sample = list(islice(table.records, SAMPLE))
    records = chain(sample, table.records)
    if not mapping.user:
        try:
            chosen = prepare(sample, mapping).mapping
        except UnclearColumns as exc:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                notes.print("Name them with --user and --assistant.")
                raise
            question, answer = _ask_columns(exc.columns)
            return prepare(records, replace(mapping, user=question, assistant=answer), system=system)
        parts = {"Question": chosen.user, "Answer": chosen.assistant, "Worse answer": chosen.rejected}
        parts |= {"Earlier turns": chosen.history}
        if chosen.assistant:
            notes.print(" ".join(f"{part}: column {name!r}." for part, name in parts.items() if name))
    return prepare(records, mapping, system=system)


def _ask_columns(columns: dict[str, str]) -> tuple[str, str]:
    names = list(columns)
    for number, name in enumerate(names, 1):
        notes.print(f"{number:>3}  {name}: {columns[name]}")
    return _ask_column("question", names), _ask_column("answer", names)


def _ask_column(role: str, names: list[str]) -> str:
    number = 0
    while not 1 <= number <= len(names):
        number = typer.prompt(f"Number of the column that holds the {role}", type=int, err=True)
    return names[number - 1]


@app.command()
def split(
    file: File,
    share: Annotated[float, typer.Option(min=0.001, max=0.9, help="The part for validation.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed chooses other rows.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Hold back a validation file: FILE-train.jsonl and FILE-valid.jsonl. Rows almost the same stay on one side."""
    from tunery.datasets.lines import read_chunks
    from tunery.datasets.split import split_file

    targets = file.with_name(f"{file.stem}-train.jsonl"), file.with_name(f"{file.stem}-valid.jsonl")
    refuse_overwriting(file, *targets, force=force)
    with notes.status("Looking for rows that are almost the same …"):
        done = split_file(lambda: read_chunks(file), *targets, share=share, seed=seed)
    if as_json:
        names = {"training_file": str(targets[0]), "validation_file": str(targets[1])}
        return emit_json({**names, "num_training": done.num_training, "num_validation": done.num_validation})
    console.print(f"{targets[0]}: {done.num_training:,} rows")
    console.print(f"{targets[1]}: {done.num_validation:,} rows")
    if done.num_groups:
        console.print(f"{done.num_groups:,} groups of almost equal rows were kept together.")


@app.command()
def show(
    file: File,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many examples.")] = 3,
    line: Annotated[int, typer.Option(min=1, help="Begin with this line.")] = 1,
    search: Annotated[str, typer.Option(help="Only examples that hold this text.")] = "",
    model: Model = DEFAULT_MODEL,
) -> None:
    """Print examples as the model will see them: what is trained in colour, what will be cut struck out."""
    from tunery.cli.data_view import print_row
    from tunery.cli.data_work import open_base
    from tunery.datasets.lines import read_chunks
    from tunery.datasets.rows import read_rows

    base = open_base(model)
    rows = read_rows(read_chunks(file), base.renderer, base.catalog.max_example_tokens, after=line - 1, search=search)
    for row in islice(rows, number):
        print_row(row)


def _method(name: str) -> Method:
    if name not in METHODS:
        raise typer.BadParameter(f"{name!r} is neither supervised nor dpo", param_hint="--method")
    return cast(Method, name)


def _whole(option: str, text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a whole number nor auto", param_hint=option) from None
