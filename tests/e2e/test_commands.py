"""The command line against a running server."""

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import BASE, MARV, Served
from tests.serving.peft_adapters import write_adapter

pytestmark = pytest.mark.e2e


def test_commands_go_round_the_loop(served: Served, tmp_path: Path) -> None:
    created = served.tunery("jobs", "create", str(MARV), "--suffix", "cli", "--epochs", "1", "--watch")
    assert created.returncode == 0, created.stderr
    assert "New fine-tuned model created" in created.stdout

    job = json.loads(served.tunery("jobs", "list", "--json").stdout)[0]
    assert (job["status"], job["user_provided_suffix"]) == ("succeeded", "cli")
    assert json.loads(served.tunery("jobs", "get", job["id"], "--json").stdout) == job
    assert "successfully completed" in served.tunery("jobs", "events", job["id"]).stdout

    for shown in (served.tunery("jobs", "list").stdout, served.tunery("jobs", "get", job["id"]).stdout):
        for fact in (job["id"], "cli", job["fine_tuned_model"], " steps", " s", " USD"):
            assert fact in shown

    csv = tmp_path / "metrics.csv"
    assert served.tunery("files", "download", job["result_files"][0], "--to", str(csv)).returncode == 0
    assert csv.read_text().startswith("step,train_loss")

    answer = served.tunery("chat", job["fine_tuned_model"], "Hello", "--max-tokens", "4")
    assert answer.returncode == 0 and "answer tokens" in answer.stderr
    assert job["fine_tuned_model"] in served.tunery("models", "list").stdout


def test_failed_job_ends_with_exit_code_1_and_the_reason(served: Served, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(MARV.read_text().splitlines(keepends=True)[:7]))
    uploaded = served.tunery("files", "upload", str(few)).stdout.strip()
    done = served.tunery("jobs", "create", uploaded, "--watch")
    assert done.returncode == 1
    assert "at least 10 examples" in done.stdout


def test_nothing_is_uploaded_for_a_job_that_would_fail(served: Served, tmp_path: Path) -> None:
    (few := tmp_path / "few.jsonl").write_text("".join(MARV.read_text().splitlines(keepends=True)[:7]))
    (broken := tmp_path / "broken.jsonl").write_text(MARV.read_text() + "{}\n")
    before = served.tunery("files", "list", "--json").stdout
    for arguments, reason in [
        ((str(MARV), "--model", "gpt-9"), "The model gpt-9 is not there."),
        ((str(few),), "at least 10 examples"),
        ((str(MARV), "--validation", str(broken)), "broken.jsonl"),
        ((str(MARV), "--validation", str(tmp_path / "none.jsonl")), "There is no file"),
        ((str(MARV), "--epochs", "900"), "n_epochs"),
        ((str(MARV), "--method", "reinforcement"), "not available"),
    ]:
        done = served.tunery("jobs", "create", *arguments)
        assert done.returncode in (1, 2) and reason in done.stderr, done
    assert served.tunery("files", "list", "--json").stdout == before


def test_brackets_in_names_are_text(served: Served, tmp_path: Path) -> None:
    (named := tmp_path / "train [final] :smile: [red].jsonl").write_text(MARV.read_text())
    uploaded = served.tunery("files", "upload", str(named)).stdout.strip()
    assert named.name in served.tunery("files", "list").stdout
    assert named.name in served.tunery("files", "get", uploaded).stdout
    assert named.name in served.tunery("data", "check", str(named), "--no-tokens").stdout
    assert named.name in served.tunery("files", "get", f"file-{named.name}").stderr


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


def test_a_batch_by_commands(served: Served, tmp_path: Path) -> None:
    def line(number: int, **values: object) -> str:
        body = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 4, **values}
        request = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(request) + "\n"

    requests, answers = tmp_path / "requests.jsonl", tmp_path / "answers.jsonl"
    requests.write_text(line(1) + line(2) + line(3, temperature=9))
    done = served.tunery("batches", "create", str(requests), "--metadata", "for=this", "--watch")
    assert done.returncode == 0, done.stderr
    assert "3 of 3, 1 failed" in done.stdout
    batch = json.loads(served.tunery("batches", "list", "--json").stdout)[0]
    assert (batch["status"], batch["metadata"], batch["endpoint"]) == (
        "completed",
        {"for": "this"},
        "/v1/chat/completions",
    )
    assert json.loads(served.tunery("batches", "get", batch["id"], "--json").stdout) == batch
    assert batch["id"] in served.tunery("batches", "list").stdout
    assert served.tunery("batches", "results", batch["id"], "--to", str(answers)).returncode == 0
    assert [json.loads(each)["custom_id"] for each in answers.read_text().splitlines()] == ["1", "2"]
    failed = json.loads(served.tunery("batches", "results", batch["id"], "--errors").stdout)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("3", 400)
    last = served.tunery("batches", "watch", batch["id"], "--json").stdout.splitlines()[-1]
    assert json.loads(last)["status"] == "completed"
    again = served.tunery("batches", "cancel", batch["id"])
    assert (again.returncode, "its status is" in again.stderr) == (1, True)

    requests.write_text(line(1) + line(1))
    faulty = served.tunery("batches", "create", str(requests), "--watch")
    assert faulty.returncode == 1 and "line 2: The custom_id" in faulty.stdout
    bare = tmp_path / "bare.jsonl"
    bare.write_text("{}\n")
    assert "give --endpoint" in served.tunery("batches", "create", str(bare)).stderr


def test_an_adapter_from_elsewhere_becomes_a_model(served: Served, tiny_model_dir: Path, tmp_path: Path) -> None:
    """A folder as a trainer left it; then with its weights as a pickle only."""
    folder = write_adapter(tiny_model_dir, tmp_path / "outputs", rank=4, modules=["q_proj", "up_proj"], seed=1)
    (folder / "checkpoint-5").mkdir()
    (folder / "training_args.bin").write_bytes(b"\x80")
    asked = ("models", "import", str(folder), "--base", BASE, "--template", "base")
    done = served.tunery(*asked, "--suffix", "from-trl", timeout_s=300)
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    assert name.startswith(f"ft:{BASE}:") and ":from-trl:" in name
    answer = served.client().chat.completions.create(
        model=name, messages=[{"role": "user", "content": "Hi"}], max_completion_tokens=3
    )
    assert answer.model == name
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused = served.tunery(*asked, timeout_s=300)
    assert refused.returncode == 1
    assert "is a pickle" in refused.stderr
    assert [file.filename for file in served.client().files.list(purpose="user_data").data] == []
