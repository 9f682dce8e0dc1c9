"""What the commands of `tunery data` do with a file and the base model that the job will use."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunery.chat.render import Renderer
from tunery.cli.connection import post_own
from tunery.cli.data_files import late_bar
from tunery.cli.models import download_bar
from tunery.datasets.estimate import Estimate, estimate_on, read_estimate
from tunery.datasets.job_errors import first_job_error
from tunery.datasets.report import Report, Role
from tunery.datasets.validate import validate_file
from tunery.domain.clock import system_clock
from tunery.domain.errors import InvalidRequest
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import Method
from tunery.jobs.requests import JobRequest, check
from tunery.metering.prices import PriceTable
from tunery.models.catalog import BaseLanguages, Catalog, CatalogModel
from tunery.models.sources import cache as sources
from tunery.settings import Settings, load_settings

if TYPE_CHECKING:
    from openai import OpenAI


@dataclass(frozen=True)
class Base:
    settings: Settings
    catalog: CatalogModel
    languages: BaseLanguages
    model_dir: Path
    renderer: Renderer


def open_base(model: str) -> Base:
    """Fetches the base model when this machine has not got it."""
    settings = load_settings()
    known = Catalog.of(settings)
    catalog = known.resolve(model)
    with download_bar() as progress:
        model_dir = sources.ensure(catalog.source, settings.models_dir, progress)
    languages = known.languages_of(catalog)
    return Base(settings, catalog, languages, model_dir, Renderer.from_dir(model_dir, completes=catalog.completes))


def make_reports(training: Path, validation: Path | None, base: Base | None, method: Method) -> list[Report]:
    first = _report(training, base, method, "training", None)
    return [first] if validation is None else [first, _report(validation, base, method, "validation", first)]


def _report(path: Path, base: Base | None, method: Method, role: Role, against: Report | None) -> Report:
    with late_bar(f"Checking {path.name}", path.stat().st_size) as advance:
        return validate_file(
            path,
            method=method,
            renderer=base.renderer if base else None,
            max_example_tokens=base.catalog.max_example_tokens if base else None,
            languages=base.languages if base else None,
            role=role,
            against=against,
            progress=advance,
        )


def refuse_unusable(reports: list[Report], paths: Sequence[Path | None]) -> None:
    """Raises InvalidRequest with the words in which the job would fail."""
    for report, path in zip(reports, paths, strict=False):
        error = first_job_error(report, str(path))
        if error is not None:
            raise InvalidRequest(f"{error.message} ({_way_on(path)})")


def _way_on(path: Path | None) -> str:
    from tunery.datasets.tables import TABLES

    if path is not None and path.suffix.lower() in TABLES:
        return f"`tunery data prepare {path}` makes a training file of a table."
    return f"`tunery data check {path}` says more."


def estimate_here(
    training: Path, validation: Path | None, model: str, method: str, hyperparameters: dict[str, Any]
) -> Estimate:
    """Raises InvalidRequest for what creating the job would refuse, and with the words in which the job would fail."""
    chosen = Hyperparameters(**hyperparameters)
    checked = check(JobRequest(model, str(training), method=method, hyperparameters=chosen))
    base = open_base(model)
    reports = make_reports(training, validation, base, checked)
    refuse_unusable(reports, (training, validation))
    prices = PriceTable.load(base.settings.prices, catalog=Catalog.of(base.settings))
    return estimate_on(
        base.catalog,
        base.model_dir,
        reports[0],
        chosen,
        source=base.catalog.source,
        method=checked,
        home=base.settings.home,
        training_price=prices.training_price(base.catalog.name, system_clock()),
        currency=prices.currency,
        has_validation=validation is not None,
    )


def estimate_there(
    client: "OpenAI",
    training: str,
    validation: str | None,
    model: str,
    method: str,
    hyperparameters: dict[str, Any],
) -> Estimate:
    """The server's, for files that are uploaded."""
    body = {
        "model": model,
        "training_file": training,
        **({"validation_file": validation} if validation else {}),
        "method": {"type": method, method: {"hyperparameters": hyperparameters}},
    }
    return read_estimate(post_own(client, "/estimates", body))
