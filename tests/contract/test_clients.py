"""Frameworks that build on Responses, each by a small program of tests/clients against the same server, and the batch
commands of `instructor` as they are.

They have an environment of their own, since what they depend on is no part of this project.
"""

import json
import os
import re
import subprocess
import time
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import BASE, SECRET
from tests.api.test_batches import as_file, chat, worker
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
def test_clients_of_responses(live: Live, tool_model: str, python: Path, program: str) -> None:
    run(live, python, program, TUNERY_TEST_TOOL_MODEL=tool_model)


def run(live: Live, *command: str | Path, **more: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "COLUMNS": "200",
        "OPENAI_BASE_URL": live.base_url,
        "OPENAI_API_KEY": SECRET,
        "TUNERY_TEST_MODEL": BASE,
        **more,
    }
    ran = subprocess.run(
        command, cwd=CLIENTS, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_batch_commands_of_instructor(live: Live, python: Path, tmp_path: Path) -> None:
    command = (python.with_name("instructor"), "batch")
    requests, answers = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    requests.write_bytes(as_file([chat(number) for number in range(3)]))
    told = run(live, *command, "create-from-file", "--file-path", requests, "--model", f"openai/{BASE}")
    [batch_id] = set(re.findall(r"Batch job created with ID: (batch_\w+)", told))
    with worker(live.context):
        while live.client().batches.retrieve(batch_id).status != "completed":
            time.sleep(0.1)
    with requests.open("rb") as file:  # one that somebody else made, without metadata
        uploaded = live.client().files.create(file=file, purpose="batch")
    endpoint: Any = "/v1/chat/completions"
    live.client().batches.create(input_file_id=uploaded.id, endpoint=endpoint, completion_window="24h")
    rows = [line for line in run(live, *command, "list", "--full-id").splitlines() if batch_id in line]
    assert len(rows) == 1 and "completed" in rows[0]
    run(live, *command, "download-file", "--batch-id", batch_id, "--download-file-path", answers)
    found = [json.loads(line)["custom_id"] for line in answers.read_text().splitlines()]
    assert found == ["request-0", "request-1", "request-2"]
    waiting = run(live, *command, "create-from-file", "--file-path", requests, "--model", f"openai/{BASE}")
    [other] = set(re.findall(r"Batch job created with ID: (batch_\w+)", waiting))
    assert "cancelled successfully" in run(live, *command, "cancel", "--batch-id", other)
    assert live.client().batches.retrieve(other).status == "cancelling"
