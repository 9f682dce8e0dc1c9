"""The command line against a running server."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import BASE, MARV, Served

pytestmark = pytest.mark.e2e


def test_commands_go_round_the_loop(served: Served, tmp_path: Path) -> None:
    created = served.tunery("jobs", "create", str(MARV), "--suffix", "cli", "--epochs", "1", "--watch")
    assert created.returncode == 0, created.stderr
    assert "New fine-tuned model created" in created.stdout

    job = json.loads(served.tunery("jobs", "list", "--json").stdout)[0]
    assert (job["status"], job["user_provided_suffix"]) == ("succeeded", "cli")
    assert json.loads(served.tunery("jobs", "get", job["id"], "--json").stdout) == job
    assert "successfully completed" in served.tunery("jobs", "events", job["id"]).stdout

    csv = tmp_path / "metrics.csv"
    assert served.tunery("files", "download", job["result_files"][0], "--to", str(csv)).returncode == 0
    assert csv.read_text().startswith("step,train_loss")

    answer = served.tunery("chat", job["fine_tuned_model"], "Hello", "--max-tokens", "4")
    assert answer.returncode == 0 and "answer tokens" in answer.stderr
    assert job["fine_tuned_model"] in served.tunery("models", "list").stdout


def test_failed_job_ends_with_exit_code_1_and_the_reason(served: Served, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(MARV.read_text().splitlines(keepends=True)[:7]))
    done = served.tunery("jobs", "create", str(few), "--watch")
    assert done.returncode == 1
    assert "at least 10 examples" in done.stdout


def test_unknown_job_and_model_are_sentences(served: Served) -> None:
    for arguments in (("jobs", "get", "ftjob-none"), ("chat", "ft:no:such:model:abcd1234", "Hello")):
        done = served.tunery(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: ") and "Traceback" not in done.stderr


def test_keys_usage_and_costs(served: Served) -> None:
    served.tunery("chat", BASE, "Hello", "--max-tokens", "2")
    made = json.loads(served.tunery("keys", "create", "laptop", "--json").stdout)
    assert made["key"].startswith("sk-")
    listed = json.loads(served.tunery("keys", "list", "--json").stdout)
    assert len(listed) >= 2 and made["key"] not in json.dumps(listed)
    assert served.tunery("usage").returncode == 0
    assert served.tunery("costs", "--json").returncode == 0
