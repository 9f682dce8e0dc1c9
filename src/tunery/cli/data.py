"""`tunery data`: look at training files before a job does. Works on this machine; no server is asked."""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from tunery.cli.data_files import late_bar, refuse_overwriting, whole_file
from tunery.cli.data_view import print_estimate, print_report, print_row
from tunery.cli.models import download_bar
from tunery.cli.output import Json, console, emit_json, notes
from tunery.datasets.advise import no_validation_file
from tunery.datasets.estimate import Estimate, estimate
from tunery.datasets.job_errors import first_job_error
from tunery.datasets.lines import read_chunks
from tunery.datasets.prepare import Mapping, prepare
from tunery.datasets.render import Renderer
from tunery.datasets.report import Report, Role
from tunery.datasets.rows import read_rows
from tunery.datasets.speed import speed_of
from tunery.datasets.split import split_file
from tunery.datasets.tables import read_table
from tunery.datasets.validate import validate_file
from tunery.datasets.work import ModelShape
from tunery.domain.clock import system_clock
from tunery.domain.errors import InvalidRequest
from tunery.domain.hyperparameters import Hyperparameters, resolve
from tunery.domain.jobs import Method
from tunery.jobs.request import JobRequest
from tunery.jobs.request import check as check_request
from tunery.metering.prices import PriceTable
from tunery.modeling import sources
from tunery.modeling.catalog import Catalog, CatalogModel
from tunery.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, help="Prepare, check, price and split training files, on this machine.")

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="A JSONL file.")]
Model = Annotated[str, typer.Option("--model", "-m", help="The model to be trained: its base counts the tokens.")]
MethodName = Annotated[str, typer.Option(help="`supervised` or `dpo`.")]
Validation = Annotated[
    Path | None, typer.Option("--validation", exists=True, dir_okay=False, help="The validation file of the same job.")
]
Number = Annotated[str, typer.Option(help="A number or `auto`.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")]
DEFAULT_MODEL = "gpt-4o-mini-2024-07-18"


@dataclass(frozen=True)
class Base:
    settings: Settings
    catalog: CatalogModel
    model_dir: Path
    renderer: Renderer


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
    base = None if no_tokens else _base(model)
    reports = _reports(file, validation, base, _method(method))
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
    base = _base(model)
    chosen = Hyperparameters(_whole("--epochs", epochs), _whole("--batch-size", batch_size))
    checked = check_request(JobRequest(model, str(file), method=method, hyperparameters=chosen))
    reports = _reports(file, validation, base, checked)
    for report, path in zip(reports, (file, validation), strict=False):
        error = first_job_error(report, str(path))
        if error is not None:
            raise InvalidRequest(f"{error.message} (`tunery data check {path}` says more.)")
    found = _estimate(reports[0], base, checked, chosen)
    if validation is None:
        found.advice.append(no_validation_file(found.num_examples))
    if as_json:
        return emit_json({"model": base.catalog.name, "method": checked, **found.to_dict()})
    print_estimate(found, base.catalog.name)


@app.command("prepare")
def prepare_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, TSV, JSON, JSONL, Parquet or XLSX.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="FILE-chat.jsonl unless told otherwise.")
    ] = None,
    user: Annotated[str, typer.Option(help="The column of questions; guessed from the names.")] = "",
    assistant: Annotated[str, typer.Option(help="The column of answers; guessed from the names.")] = "",
    system: Annotated[str, typer.Option(help="A system message for every row that has none.")] = "",
    system_column: Annotated[str, typer.Option(help="The column of system messages.")] = "",
    force: Force = False,
) -> None:
    """Turn a table into chat JSONL."""
    if bool(user) != bool(assistant):
        raise typer.BadParameter("--user and --assistant go together")
    mapping = Mapping(user, assistant, system_column) if user else None
    target = output or file.with_name(f"{file.stem}-chat.jsonl")
    refuse_overwriting(file, target, force=force)
    num_rows = 0
    with whole_file(target) as out:
        for row in prepare(read_table(file), mapping, system=system):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            num_rows += 1
    console.print(f"{num_rows:,} rows written to {target}. Next: [bold]tunery data check {target}[/bold]")


@app.command()
def split(
    file: File,
    share: Annotated[float, typer.Option(min=0.001, max=0.9, help="The part for validation.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Another seed chooses other rows.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Hold back a validation file: FILE-train.jsonl and FILE-valid.jsonl. Rows almost the same stay on one side."""
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
    base = _base(model)
    rows = read_rows(read_chunks(file), base.renderer, base.catalog.max_example_tokens, after=line - 1, search=search)
    for row in islice(rows, number):
        print_row(row)


def _base(model: str) -> Base:
    """Fetches the base model when this machine has not got it."""
    settings = load_settings()
    catalog = Catalog.load(settings.catalog).resolve(model)
    with download_bar() as progress:
        model_dir = sources.ensure(catalog.source, settings.models_dir, progress)
    return Base(settings, catalog, model_dir, Renderer.from_dir(model_dir))


def _reports(file: Path, validation: Path | None, base: Base | None, method: Method) -> list[Report]:
    training = _report(file, base, method, "training", None)
    if validation is None:
        return [training]
    return [training, _report(validation, base, method, "validation", training)]


def _report(path: Path, base: Base | None, method: Method, role: Role, against: Report | None) -> Report:
    with late_bar(f"Checking {path.name}", path.stat().st_size) as advance:
        return validate_file(
            path,
            method=method,
            renderer=base.renderer if base else None,
            max_example_tokens=base.catalog.max_example_tokens if base else None,
            role=role,
            against=against,
            progress=advance,
        )


def _estimate(report: Report, base: Base, method: Method, chosen: Hyperparameters) -> Estimate:
    prices = PriceTable.load(base.settings.prices)
    return estimate(
        report,
        resolve(chosen, num_examples=report.num_examples, default_multiplier=base.catalog.default_multiplier),
        method=method,
        shape=ModelShape.from_dir(base.model_dir),
        speed=speed_of(base.settings.home, base.catalog.source, method),
        lora_rank=base.catalog.lora_rank,
        training_price=prices.training_price(base.catalog.name, system_clock()),
        currency=prices.currency,
    )


def _method(name: str) -> Method:
    if name not in ("supervised", "dpo"):
        raise typer.BadParameter(f"{name!r} is neither supervised nor dpo", param_hint="--method")
    return cast(Method, name)


def _whole(option: str, text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a whole number nor auto", param_hint=option) from None
