"""What the package imports is what pyproject.toml names: a package that comes by way of another may go with it."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.architecture.imports import all_imports
from tunery.sandbox.walls import KNOWN_PACKAGES

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
MODULES = {found.target.split(".")[0] for found in all_imports()} - sys.stdlib_module_names - {"tunery"}
DISTRIBUTIONS = packages_distributions()


def _names(requirements: list[str]) -> set[str]:
    return {_plain(re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]) for line in requirements}


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


NAMED = _names(PROJECT["dependencies"]).union(
    *(_names(lines) for extra, lines in PROJECT["optional-dependencies"].items() if extra not in ("dev", "bench"))
)


def test_every_imported_package_is_named() -> None:
    missing = {
        module for module in MODULES if not {_plain(name) for name in DISTRIBUTIONS.get(module, [module])} & NAMED
    }
    assert not missing, f"name them in pyproject.toml, with a reason: {sorted(missing)}"


def test_every_named_package_is_imported() -> None:
    """Those without an import here are asked for by name, in a setting or by a library of ours."""
    asked_for = {
        "psycopg",  # by SQLAlchemy, in the database's address
        "wandb",  # in a process of its own
        *KNOWN_PACKAGES,  # by users' graders
    }
    imported = {_plain(name) for module in MODULES for name in DISTRIBUTIONS.get(module, [])}
    assert not (unused := NAMED - imported - asked_for), f"nothing imports {sorted(unused)}"
