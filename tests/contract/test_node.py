"""The official Node SDK: tests/node/operations.mjs against the same server."""

import os
import subprocess
from pathlib import Path

from tests.api.conftest import SECRET
from tests.contract.conftest import Live

NODE = Path(__file__).parents[1] / "node"


def test_every_operation_of_the_node_sdk(live: Live, tuned: str) -> None:
    if not (NODE / "node_modules" / "openai").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=NODE, check=True, timeout=300)
    environment = {
        **os.environ,
        "OPENAI_BASE_URL": live.base_url,
        "OPENAI_API_KEY": SECRET,
        "TUNERY_TEST_MODEL": tuned,
        "TUNERY_TEST_PROJECT": live.project_id,
    }
    command = ["node", "operations.mjs"]
    ran = subprocess.run(command, cwd=NODE, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
