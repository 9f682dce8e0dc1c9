"""What an import drags in, seen from a fresh interpreter."""

import subprocess
import sys

import pytest


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in sys.modules after the statement."""
    code = f"{statement}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "tunery.api",
        "tunery.api.app",
        "tunery.jobs",
        "tunery.jobs.worker",
        "tunery.datasets",
        "tunery.cli",
        "tunery.launch",
        "tunery.models.catalog",
        "tunery.models.sources.cache",
        "tunery.training.protocol",
        "tunery.settings",
    ],
)
def test_import_leaves_torch_out(module: str) -> None:
    assert not loaded_after(f"import {module}") & {"torch", "transformers"}


@pytest.mark.parametrize("module", ["tunery.training", "tunery.training.child", "tunery.models"])
def test_trainer_needs_no_web_framework_and_no_database(module: str) -> None:
    assert not loaded_after(f"import {module}") & {"fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic"}


@pytest.mark.parametrize(
    "words",
    ["--help", "jobs list", "jobs list --help", "models list --local", "keys list", "files get file-1", "serve --help"],
)
def test_a_command_loads_what_it_needs(words: str) -> None:
    """Nothing of the server, whose imports take longer than most commands; here no server answers."""
    command = f"""
import contextlib, io, sys, tunery.cli.main
sys.argv = ["tunery", "--base-url=http://127.0.0.1:9/v1", "--api-key=k", *{words.split()}]
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
        tunery.cli.main.main()
    except SystemExit:
        pass"""
    assert not loaded_after(command) & {"sqlalchemy", "alembic", "fastapi", "uvicorn", "numpy", "torch"}
