import json
import logging
from collections.abc import Iterator

import pytest

from tunery import logs


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []  # configure closes those it finds, and pytest needs its own
    yield
    root.handlers = handlers
    root.setLevel(level)


def test_json_line_carries_the_ids_of_the_block_and_of_the_record(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    with logs.about(job_id="ftjob-1"):
        logging.getLogger("a.b").warning("step %d", 3, extra={"request_id": "req_1", "project_id": None})
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["logger"], line["message"]) == ("warning", "a.b", "step 3")
    assert "project_id" not in line
    assert (line["job_id"], line["request_id"]) == ("ftjob-1", "req_1")


def test_json_line_holds_a_traceback_as_one_value(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("a").exception("broken")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: no" in json.loads(line)["traceback"]


def test_text_line_ends_with_the_ids(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    with logs.about(job_id="ftjob-1"):
        logging.getLogger("a").info("hello")
    logging.getLogger("a").info("bye")
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("INFO a: hello [job_id=ftjob-1]")
    assert second.endswith("INFO a: bye")


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "char",
    ["\n", "\r\n", "\x1b", "\x00", "\x7f", "\x9b", "\u2028", "\u2029", "\u202e", "\u200b", "\ufeff", "\ud800"],
)
def test_what_a_client_sent_cannot_forge_a_line(capsys: pytest.CaptureFixture[str], form: str, char: str) -> None:
    logs.configure(form)  # type: ignore[arg-type]
    logging.getLogger("a").warning("GET /x%s2026-01-01 INFO forged 日本語", char, extra={"project_id": f"p{char}q"})
    err = capsys.readouterr().err
    assert err.endswith("\n") and not any(part in err[:-1] for part in char)
    assert "日本語" in err
    if form == "json":
        assert json.loads(err)["project_id"] == f"p{char}q"


def test_lines_of_a_traceback_do_not_look_like_records(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text")
    try:
        raise ValueError("no\n2026-01-01 00:00:00,000 INFO a: forged\r\x1b[2K")
    except ValueError:
        logging.getLogger("a").exception("broken")
    first, *rest = capsys.readouterr().err.splitlines()
    assert first.endswith("broken")
    assert all(line.startswith("  ") for line in rest)
