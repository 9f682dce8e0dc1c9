"""What models answered becomes a training file by one command."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.api.conftest import NOW, SECRET
from tests.api.test_batch_datasets import chat_pair
from tests.contract.conftest import Live
from tests.rows import store_batch, store_completion, store_response
from tunery.cli.main import app
from tunery.store.database import write

AT = int(NOW) - 90 * 86_400  # long before anything that other tests keep


@pytest.fixture
def tunery(live: Live, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("COLUMNS", "200")
    given = ["--base-url", live.base_url, "--api-key", SECRET]
    return lambda *words: CliRunner().invoke(app, [*given, *map(str, words)])


@pytest.fixture(scope="module")
def kept(live: Live) -> dict[str, str]:
    """Ids by question, all of one model that answers nothing else."""
    shared: dict[str, Any] = {"created_at": AT, "model": "distilled"}
    with write(live.context.database) as conn:
        store: dict[str, Callable[..., str]] = {"chat": store_completion, "response": store_response}
        ids = {
            f"{api} {n}?": make(conn, live.project_id, f"{api} {n}?", f"Answer {n}.", metadata={"n": str(n)}, **shared)
            for api, make in store.items()
            for n in range(3)
        }
        store_response(conn, live.project_id, "long?", "Lo", status="incomplete", **shared)
        store_completion(conn, live.project_id, "silent?", "", **shared)
    return ids


def questions(live: Live, file_id: str) -> set[str]:
    rows = map(json.loads, live.client().files.content(file_id).text.splitlines())
    return {row["messages"][0]["content"] for row in rows}


def test_all_of_a_model_with_what_was_left_out(live: Live, tunery: Callable[..., Result], kept: dict[str, str]) -> None:
    done = tunery("files", "distill", "--model", "distilled", "--name", "mine.jsonl")
    assert done.exit_code == 0, done.output
    file = live.client().files.retrieve(done.stdout.strip())
    assert (file.filename, file.purpose, questions(live, file.id)) == ("mine.jsonl", "fine-tune", set(kept))
    assert "6 rows in mine.jsonl." in done.stderr
    assert "1 left out: cut off" in done.stderr and "1 left out: no answer" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--api", "chat"), {"chat 0?", "chat 1?", "chat 2?"}),
        (("--metadata", "n=1"), {"chat 1?", "response 1?"}),
        (("--search", "RESPONSE 2"), {"response 2?"}),
        (("--api", "responses", "--metadata", "n=0"), {"response 0?"}),
    ],
)
def test_filters(
    live: Live, tunery: Callable[..., Result], kept: dict[str, str], words: tuple[str, ...], expected: set[str]
) -> None:
    done = tunery("files", "distill", "--model", "distilled", "--json", *words)
    assert questions(live, json.loads(done.stdout)["file"]["id"]) == expected <= set(kept)


def test_by_id(live: Live, tunery: Callable[..., Result], kept: dict[str, str]) -> None:
    done = tunery("files", "distill", "--id", kept["chat 1?"], "--id", kept["response 2?"], "--id", "resp_none")
    assert questions(live, done.stdout.strip()) == {"chat 1?", "response 2?"}
    assert "1 left out: gone" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--model", "no-such-model"), 1, "None of these answers can be a row"),
        (("--model", "distilled", "--until", "2001-01-01"), 1, "None of these answers can be a row"),
        (("--since", "yesterday"), 2, "yesterday"),
        (("--metadata", "n"), 2, "KEY=VALUE"),
        (("--api", "batch"), 2, "batch"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    tunery: Callable[..., Result], kept: dict[str, str], words: tuple[str, ...], code: int, text: str
) -> None:
    done = tunery("files", "distill", *words)
    assert (done.exit_code, done.stdout) == (code, "") and kept
    assert text in " ".join(f"{done.stderr} {done.exception}".split())


def test_a_batch_becomes_a_training_file(live: Live, tunery: Callable[..., Result]) -> None:
    failed = (chat_pair("bad", "")[0], "refused")
    with write(live.context.database) as conn:
        pairs = [chat_pair("One?", "1"), failed, chat_pair("Two?", "2"), chat_pair("Long?", "L", "length")]
        batch = store_batch(conn, live.context.blobs, live.project_id, pairs)
        embedded = store_batch(conn, live.context.blobs, live.project_id, pairs, endpoint="/v1/embeddings")
    done = tunery("batches", "distill", batch.id, "--name", "labels.jsonl")
    assert done.exit_code == 0, done.output
    assert questions(live, done.stdout.strip()) == {"One?", "Two?"}
    assert "2 rows in labels.jsonl." in done.stderr
    assert "1 left out: failed" in done.stderr and "1 left out: cut off" in done.stderr
    made = json.loads(tunery("batches", "distill", batch.id, "--json").stdout)
    assert (made["num_rows"], made["file"]["filename"]) == (2, f"{batch.id}.jsonl")
    refused = tunery("batches", "distill", embedded.id)
    assert (refused.exit_code, refused.stdout) == (1, "") and "embeds texts" in str(refused.exception)
