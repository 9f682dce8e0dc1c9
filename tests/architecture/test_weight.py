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
