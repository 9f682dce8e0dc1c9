"""Frameworks that build on Responses, each by a small program of tests/clients against the same server.

They have an environment of their own, since what they depend on is no part of this project.
"""

import os
import subprocess
import venv
from pathlib import Path

import pytest

from tests.api.conftest import BASE, SECRET
from tests.contract.conftest import Live

CLIENTS = Path(__file__).parents[1] / "clients"
ENVIRONMENT = Path(__file__).parents[2] / ".cache" / "clients"


@pytest.fixture(scope="session")
def python() -> Path:
    """An interpreter that has tests/clients/requirements.txt; made once for each version of that file."""
    wanted = (CLIENTS / "requirements.txt").read_text()
    mark, made = ENVIRONMENT / "complete", ENVIRONMENT / "bin" / "python"
    if not mark.exists() or mark.read_text() != wanted:
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        command = [made, "-m", "pip", "install", "--quiet", "--no-deps", "-r", CLIENTS / "requirements.txt"]
        subprocess.run(command, check=True, timeout=600)
        mark.write_text(wanted)
    return made


@pytest.mark.parametrize("program", ["agents_client.py", "langchain_client.py", "openresponses_client.py"])
def test_clients_of_responses(live: Live, python: Path, program: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "OPENAI_BASE_URL": live.base_url,
        "OPENAI_API_KEY": SECRET,
        "TUNERY_TEST_MODEL": BASE,
    }
    ran = subprocess.run(
        [python, program], cwd=CLIENTS, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
