"""`tunery data` as it is typed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.datasets.conftest import chat_row
from tunery.cli.main import app

Write = Callable[..., Path]
ROWS = [chat_row(f"What is {n} and {n * n}?", f"It is {n + n * n}.") for n in range(30)]


@pytest.fixture
def run(base_model_dir: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("TUNERY_HOME", str(home))
    monkeypatch.setenv("TUNERY_MODEL_CACHE", str(base_model_dir.parent))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, ["data", *map(str, words)])


def test_check_of_a_good_file(run: Callable[..., Result], write_rows: Write) -> None:
    result = run("check", write_rows(ROWS))
    assert result.exit_code == 0, result.output
    assert "good" in result.output and "trained tokens" in result.output


def test_check_of_a_bad_file_names_the_line_and_exits_with_1(run: Callable[..., Result], write_rows: Write) -> None:
    path = write_rows([*ROWS, {"messages": [{"role": "user", "content": "?"}]}])
    result = run("check", path, "--no-tokens")
    assert result.exit_code == 1
    assert "31" in result.output and "no_assistant_message" in result.output
    report = json.loads(run("check", path, "--no-tokens", "--json").stdout)["training"]
    assert report["problem_counts"] == {"no_assistant_message": 1}


def test_estimate_says_what_it_rests_on(run: Callable[..., Result], write_rows: Write) -> None:
    path = write_rows(ROWS)
    assert "a rough guess" in run("estimate", path).output
    found = json.loads(run("estimate", path, "--epochs", "2", "--json").stdout)
    assert found["hyperparameters"]["n_epochs"] == 2
    report = json.loads(run("check", path, "--json").stdout)["training"]
    assert found["trained_tokens"] == 2 * report["token_counts"]["tokens"]["total"]


@pytest.mark.parametrize("words", [["--epochs", "many"], ["--method", "magic"]])
def test_wrong_options_are_told(words: list[str], run: Callable[..., Result], write_rows: Write) -> None:
    assert run("estimate", write_rows(ROWS), *words).exit_code != 0


def test_prepare_then_check(run: Callable[..., Result], tmp_path: Path) -> None:
    table = tmp_path / "faq.csv"
    table.write_text("question,answer\n" + "".join(f"Q{n}?,A{n}\n" for n in range(12)))
    result = run("prepare", table, "--system", "Be brief.")
    assert result.exit_code == 0, result.output
    made = tmp_path / "faq-chat.jsonl"
    first = json.loads(made.read_text().splitlines()[0])
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]
    assert run("check", made, "--no-tokens").exit_code == 0
    assert run("prepare", table).exit_code == 2  # it is there already
    assert run("prepare", table, "--force").exit_code == 0


def test_prepare_that_fails_leaves_nothing(run: Callable[..., Result], tmp_path: Path) -> None:
    table = tmp_path / "faq.csv"
    table.write_text("question,answer\nQ?,\n,A\n")
    assert run("prepare", table).exit_code != 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["faq.csv"]


def test_split_writes_both_files(run: Callable[..., Result], write_rows: Write) -> None:
    path = write_rows(ROWS, "all.jsonl")
    made = json.loads(run("split", path, "--share", "0.2", "--json").stdout)
    assert (made["num_training"], made["num_validation"]) == (24, 6)
    assert len(Path(made["validation_file"]).read_text().splitlines()) == 6


def test_show_marks_what_is_trained(run: Callable[..., Result], write_rows: Write) -> None:
    result = run("show", write_rows(ROWS), "--line", "3", "-n", "1")
    assert "line 3" in result.output and "It is 6.<|im_end|>" in result.output
    assert "It is 12." not in result.output


def test_commands_need_a_file_that_is_there(run: Callable[..., Any], tmp_path: Path) -> None:
    assert run("check", tmp_path / "nothing.jsonl").exit_code == 2


def test_dry_run_of_a_job_needs_no_server(run: Callable[..., Result], write_rows: Write) -> None:
    path = write_rows(ROWS)
    words = ["jobs", "create", str(path), "--epochs", "2", "--dry-run", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_steps"] == 16
