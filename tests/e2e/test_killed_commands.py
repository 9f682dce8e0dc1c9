"""Commands that are ended by `kill -9` while they take a model out or in: what is half-written is never offered."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BASE, Served
from tests.e2e.test_estimate import ours
from tests.jobs.processes import children_of, is_alive
from tests.jobs.waiting import wait_for
from tests.serving.peft_adapters import write_adapter

pytestmark = pytest.mark.e2e

ASKED: Any = [{"role": "user", "content": "Hi"}]
PATIENCE_S = 300


def test_a_model_comes_in_whole_and_goes_out_whole_though_its_commands_are_killed(
    served: Served, tiny_settings: dict[str, str], tiny_model_dir: Path, tmp_path: Path
) -> None:
    sent = write_adapter(tiny_model_dir, tmp_path / "sent", rank=4, modules=["q_proj", "up_proj"], seed=3)
    model = import_that_is_killed(served, sent)
    answer = served.client().chat.completions.create(model=model, messages=ASKED, max_completion_tokens=3)
    assert answer.model == model

    (to := tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "tunery", "models", "export", model, "--to", str(to / "mine"), "--json"]
    environment = {**served.environment(), **tiny_settings}
    part = to / ".mine.part"
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as killed:
        wait_for(lambda: (part / "model.safetensors").exists() or None, PATIENCE_S)
        writers = children_of(killed.pid, "tunery.export")
        killed.kill()
    assert writers
    wait_for(lambda: None if any(map(is_alive, writers)) else True, PATIENCE_S)
    assert not (to / "mine").exists()
    assert not (part / "export.json").exists(), "it went on alone"

    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    assert json.loads(again.stdout)["proof"]["agrees"]
    assert [path.name for path in to.iterdir()] == ["mine"]


def import_that_is_killed(served: Served, sent: Path) -> str:
    """The command dies when the server has the import; the model that comes of it all the same."""
    command = [sys.executable, "-m", "tunery", "models", "import", str(sent), "--base", BASE, "--template", "base"]
    before = {each["id"] for each in imports(served)}
    with subprocess.Popen([*command, "--suffix", "killed"], env=served.environment(), stdin=subprocess.DEVNULL) as it:
        (made,) = wait_for(lambda: [each for each in imports(served) if each["id"] not in before] or None, PATIENCE_S)
        it.kill()
    done = wait_for(
        lambda: next((e for e in imports(served) if e["id"] == made["id"] and e["status"] == "succeeded"), None),
        PATIENCE_S,
    )
    client = served.client()
    (left,) = client.files.list(purpose="user_data").data
    assert left.expires_at is not None, "nobody else would remove it"
    client.files.delete(left.id)
    return done["model"]


def imports(served: Served) -> list[dict[str, Any]]:
    with ours(served) as client:
        return client.get("/tunery/v1/imports").raise_for_status().json()["data"]
