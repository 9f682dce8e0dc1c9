"""Clients in JavaScript: the official SDK (tests/node/operations.mjs) and the AI SDK, against the same server."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.api.conftest import SECRET
from tests.contract.conftest import Live

NODE = Path(__file__).parents[1] / "node"


@pytest.fixture(scope="session")
def modules() -> None:
    """What tests/node/package-lock.json says; installed once for each version of that file."""
    wanted, mark = (NODE / "package-lock.json").read_text(), NODE / "node_modules" / "complete"
    if not mark.exists() or mark.read_text() != wanted:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=NODE, check=True, timeout=300)
        mark.write_text(wanted)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("program", ["operations.mjs", "ai-sdk.mjs"])
def test_every_operation_in_node(live: Live, tuned: str, program: str) -> None:
    environment = {
        **os.environ,
        "OPENAI_BASE_URL": live.base_url,
        "OPENAI_API_KEY": SECRET,
        "TUNERY_TEST_MODEL": tuned,
        "TUNERY_TEST_PROJECT": live.project_id,
    }
    ran = subprocess.run(["node", program], cwd=NODE, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
