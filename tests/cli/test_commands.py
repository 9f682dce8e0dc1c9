"""The command line without a server: help, exit codes, local commands, and no traceback whatever goes wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.processes import wait_for
from tunery.cli import output
from tunery.cli.data_work import make_reports, refuse_unusable
from tunery.cli.output import duration
from tunery.cli.serve import print_banner
from tunery.domain.errors import InvalidRequest
from tunery.launch.server import Address
from tunery.settings import Settings
from tunery.texts.amounts import size


def tunery(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TUNERY_", "OPENAI_"))}
    return subprocess.run(
        [sys.executable, "-m", "tunery", *arguments],
        env={**clean, "TUNERY_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


def test_help_names_every_command(home: Path) -> None:
    done = tunery("--help", home=home)
    assert done.returncode == 0
    for command in (
        "serve",
        "doctor",
        "demo",
        "files",
        "jobs",
        "improve",
        "batches",
        "evals",
        "models",
        "chat",
        "keys",
        "usage",
        "costs",
        "migrate",
    ):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("jobs", "list"), 2, "OPENAI_API_KEY"),
        (("--api-key", "sk-x", "jobs", "create", "missing.jsonl"), 2, "no file missing.jsonl"),
        (("--api-key", "sk-x", "jobs", "create", "file-x", "--epochs", "many"), 2, "--epochs must be a number"),
        (("--api-key", "sk-x", "--base-url", "http://127.0.0.1:9/v1", "jobs", "list"), 1, "No server answers"),
        (("--api-key", "sk-x", "--base-url", "127.0.0.1:9/v1", "jobs", "list"), 2, "does not begin with http://"),
        (("--api-key", "sk-x", "--base-url", "localhost", "models", "list"), 2, "does not begin with http://"),
        (("models", "pull", "no-such-model"), 1, "does not exist"),
        (("serve", "--config", "missing.toml"), 1, "no settings file"),
        (("serve", "--config", "."), 1, ".: Is a directory."),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_what_goes_wrong_is_a_sentence_and_an_exit_code(
    home: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    done = tunery(*arguments, home=home)
    assert done.returncode == code
    assert text in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_unknown_setting_stops_the_command(home: Path) -> None:
    done = tunery("models", "list", "--local", home=home, TUNERY_LEESE_S="3")
    assert (done.returncode, "TUNERY_LEESE_S" in done.stderr) == (1, True)


def test_local_models_as_json(home: Path) -> None:
    done = tunery("models", "list", "--local", "--json", home=home)
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert found["gpt-4o-mini-2024-07-18"]["aliases"] == ["gpt-4o-mini"]
    assert found["gpt-4o-mini-2024-07-18"]["path"] is None


def test_lost_key_is_replaced_on_the_servers_own_machine(home: Path) -> None:
    first = tunery("keys", "create", "me", "--local", home=home)
    second = tunery("keys", "create", "me", "--local", "--json", home=home)
    assert first.stdout.startswith("sk-")
    assert json.loads(second.stdout)["key"] != first.stdout.strip()


def test_numbers_for_people() -> None:
    assert [duration(s) for s in (4.4, 75, 3700)] == ["4 s", "1 min 15 s", "1 h 1 min"]
    assert [size(n) for n in (12, 1_500, 2_340_000, 5e9)] == ["12 B", "1.5 kB", "2.3 MB", "5.0 GB"]


@pytest.mark.parametrize("when", ["in the imports", "beside a thread that waits"])
def test_ctrl_c_is_one_line_at_any_moment(home: Path, tmp_path: Path, when: str) -> None:
    """`sitecustomize` raises what Ctrl-C raises where a key press would only hit by luck."""
    hook = {
        "in the imports": "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tunery.cli.jobs': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n",
        "beside a thread that waits": "import threading, time, tunery.cli.models as m\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def wait(*_):\n"
        "    ThreadPoolExecutor(1).submit(time.sleep, 300)\n"
        "    raise KeyboardInterrupt\n"
        "m.load_settings = wait\n",
    }[when]
    (tmp_path / "sitecustomize.py").write_text(hook)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = tunery("models", "list", "--local", home=home, PYTHONPATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize(
    "command", [("serve", "--port", "0"), ("demo",), ("models", "pull"), ("keys", "create", "x", "--local")]
)
def test_a_home_that_is_a_file_is_one_sentence(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    done = tunery(*command, home=tmp_path / "file")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"Error: The home {tmp_path / 'file'} cannot be used: it is a file. Set TUNERY_HOME to another folder.\n"
    )


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("demo",), ("models", "pull", "smollm2-135m-instruct")])
def test_a_model_cache_that_cannot_be_written_is_one_sentence(
    home: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("")
    done = tunery(*command, home=home, TUNERY_MODEL_CACHE=str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"Error: The model \S+ cannot be put into \S+: File exists. TUNERY_MODEL_CACHE names .*\n", done.stderr
    )


def test_without_a_terminal_what_takes_long_is_told_in_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "TOLD_EVERY_S", 0.01)
    told: list[str] = []
    with output.doing() as tell:
        for done in range(3):
            tell("Fetching", f"{done} of 2 MB")
        wait_for(lambda: told.append(capsys.readouterr().err) or "".join(told).count("2 of 2 MB") > 1)
        tell("Starting")
    tail = capsys.readouterr().err
    lines = "".join([*told, tail]).split("\n")
    assert lines[0] == "Fetching …"
    assert any(re.fullmatch(r"Fetching … 2 of 2 MB, \d+ s", line) for line in lines)
    assert "Starting …" in lines


@pytest.mark.parametrize(
    ("name", "way"),
    [("a.csv", "prepare"), ("a.XLSX", "prepare"), ("a.json", "prepare"), ("a.jsonl", "check"), ("a.txt", "check")],
)
def test_a_refused_file_says_the_way_on(tmp_path: Path, name: str, way: str) -> None:
    path = tmp_path / name
    path.write_text("question,answer\nq,a\n")
    reports = make_reports(path, None, None, "supervised")
    with pytest.raises(InvalidRequest, match=f"`tunery data {way} {path}`"):
        refuse_unusable(reports, (path, None))


def test_a_later_start_says_where_keys_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for key, settings in (("sk-first", Settings(home=tmp_path)), (None, Settings(home=tmp_path))):
        print_banner(settings, Address("http://127.0.0.1:1", key))
    first, later = capsys.readouterr().out.split("Tunery is up.")[1:]
    assert "sk-first" in first
    assert "tunery keys create NAME --local" in later


@pytest.mark.parametrize("num_rows", [3, 12])
def test_a_bar_that_was_not_shown_leaves_nothing(home: Path, tmp_path: Path, num_rows: int) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * num_rows)
    done = tunery("data", "check", "--no-tokens", str(tmp_path / "rows.jsonl"), home=home)
    assert done.stderr == ""
    assert done.stdout.startswith(str(tmp_path / "rows.jsonl"))


def test_a_remark_is_one_line_where_no_terminal_wraps_it(home: Path, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.write_text("")
    done = tunery("keys", "create", "x", "--local", home=long)
    assert done.stderr.count("\n") == 1
