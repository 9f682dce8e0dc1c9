"""The /tunery/v1 routes about files, through the whole application."""

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.datasets.conftest import chat_row, pair_row
from tunery.api.app import create_app
from tunery.api.tunery.datasets import reports, routes
from tunery.domain.clock import system_clock
from tunery.domain.errors import Unavailable
from tunery.settings import Settings
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, write

KEY = "sk-test-0123456789abcdef0123456789abcdef"
MODEL = "gpt-4o-mini-2024-07-18"


@pytest.fixture(scope="module")
def client(base_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), model_cache=base_model_dir.parent)
    engine = connect(settings.resolved_database_url)
    migrate(engine)
    with write(engine) as conn:
        bootstrap(conn, clock=system_clock, key=KEY)
    with TestClient(create_app(settings), headers={"authorization": f"Bearer {KEY}"}) as found:
        yield found


def upload(client: TestClient, rows: list[dict[str, Any]], name: str = "train.jsonl") -> str:
    content = "\n".join(json.dumps(row) for row in rows).encode()
    answer = client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "fine-tune"})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [chat_row(f"What is {n} plus {n}?", f"It is {2 * n}.") for n in range(30)]


@pytest.fixture(scope="module")
def file_id(client: TestClient, rows: list[dict[str, Any]]) -> str:
    return upload(client, rows)


def test_report_counts_with_the_tokenizer_of_the_model(client: TestClient, file_id: str) -> None:
    report = client.post("/tunery/v1/validations", json={"file": file_id, "model": "gpt-4o-mini"}).json()
    assert report["valid"] and report["num_examples"] == 30
    assert 0 < report["token_counts"]["trained_tokens"]["total"] < report["token_counts"]["tokens"]["total"]
    assert [advice["code"] for advice in report["advice"]] == ["few_examples"]


def test_report_names_lines_and_says_what_to_do(client: TestClient, rows: list[dict[str, Any]]) -> None:
    bad = upload(client, [*rows, {"messages": [{"role": "user", "content": "?"}]}])
    report = client.post("/tunery/v1/validations", json={"file": bad}).json()
    assert not report["valid"]
    problem = report["problems"][0]
    assert (problem["code"], problem["line"]) == ("no_assistant_message", 31)
    assert problem["suggestion"]


def test_a_stream_ends_with_the_report(client: TestClient, file_id: str) -> None:
    body = {"file": file_id, "stream": True, "role": "validation"}
    answer = client.post("/tunery/v1/validations", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    kinds = [line for line in answer.text.splitlines() if line.startswith("event:")]
    assert set(kinds[:-1]) <= {"event: progress"} and kinds[-1] == "event: report"
    assert json.loads(answer.text.strip().splitlines()[-1].removeprefix("data: "))["num_examples"] == 30


def test_a_stream_tells_of_progress_and_of_errors(
    client: TestClient, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "PROGRESS_EVERY_S", 0.001)
    body = {"file": upload(client, rows * 200), "stream": True}
    with client.stream("POST", "/tunery/v1/validations", json=body) as answer:
        events = [line for line in answer.iter_lines() if line]
    progress = [json.loads(events[i + 1][6:]) for i, line in enumerate(events) if line == "event: progress"]
    assert progress and all(0 <= one["num_bytes"] <= one["total_bytes"] for one in progress)
    assert json.loads(events[-1][6:])["advice"][0]["code"] == "duplicates"

    missing = upload(client, rows[:1])
    client.app.state.context.blobs.delete(f"files/{missing}")  # type: ignore[attr-defined]
    answer = client.post("/tunery/v1/validations", json={"file": missing, "stream": True})
    assert answer.text.rpartition("event: ")[2].startswith("error\ndata: ")  # on a busy machine behind some progress


def test_large_files_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "WAIT_S", 0.01)
    cache = reports.ReportCache()
    with cache.turn(10**9), cache.turn(10**9):
        with pytest.raises(Unavailable), cache.turn(10**9):
            pass
        with cache.turn(1000):
            pass  # a small one need not
    with cache.turn(10**9):
        pass


def test_whoever_leaves_ends_the_work() -> None:
    ended = threading.Event()

    def steps() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.set()

    running = reports.Running(steps())  # type: ignore[arg-type]
    running.leave()
    assert ended.wait(5) and running.wait(5) and running.report is None


def test_rows_that_stand_in_both_files_are_told(client: TestClient, file_id: str, rows: list[dict[str, Any]]) -> None:
    held = upload(client, rows[:3], "valid.jsonl")
    body = {"file": held, "role": "validation", "training_file": file_id}
    report = client.post("/tunery/v1/validations", json=body).json()
    assert report["valid"]
    both = next(advice for advice in report["advice"] if advice["code"] == "rows_in_both_files")
    assert both["lines"] == [1, 2, 3]


def test_estimate_creates_nothing_and_gives_reasons(client: TestClient, file_id: str) -> None:
    report = client.post("/tunery/v1/validations", json={"file": file_id, "model": MODEL}).json()
    found = client.post("/tunery/v1/estimates", json={"model": MODEL, "training_file": file_id}).json()
    assert found["hyperparameters"]["n_epochs"] == 3  # 30 examples: 100 // 30
    assert found["trained_tokens"] == 3 * report["token_counts"]["tokens"]["total"]
    assert found["num_steps"] == 3 * 8  # batches of 4
    assert found["cost"] == pytest.approx(found["trained_tokens"] * 3.00 / 1e6)
    assert 0 < found["min_s"] < found["max_s"]
    assert found["peak_memory_bytes"] > 500e6
    assert set(found["reasons"]) >= {"n_epochs", "batch_size", "learning_rate_multiplier"}
    assert found["advice"][-1]["code"] == "no_validation_file"
    assert client.get("/v1/fine_tuning/jobs").json()["data"] == []
    assert found["samples"] is None
    prompts = {"sample_prompts": ["How much is 2 plus 2?", "And 3 plus 3?"]}
    more = client.post("/tunery/v1/estimates", json={"model": MODEL, "training_file": file_id, **prompts}).json()
    assert more["cost"] == found["cost"] and more["samples"]["num_answers"] == 6  # two an epoch
    read = more["samples"]["num_tokens"] - 6 * 128  # what is written is 128 tokens at most
    assert 3 * 2 * 10 < read < 3 * 2 * 40
    assert more["samples"]["cost"] == pytest.approx((read * 0.30 + 6 * 128 * 1.20) / 1e6)


def test_estimate_of_a_file_that_would_fail_says_what_the_job_would_say(client: TestClient) -> None:
    few = upload(client, [chat_row()])
    answer = client.post("/tunery/v1/estimates", json={"model": MODEL, "training_file": few})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_n_examples", "training_file")
    assert error["message"] == "Training file has 1 example(s), but must have at least 10 examples"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"file": "file-nothere"}, 404, "id"),
        ({"file": 3}, 400, "file"),
        ({}, 400, "file"),
        ({"file": "x", "surprise": 1}, 400, "surprise"),
    ],
)
def test_bad_requests_are_answered_in_the_envelope(
    client: TestClient, body: dict[str, Any], status: int, param: str
) -> None:
    answer = client.post("/tunery/v1/validations", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_model_that_cannot_be_trained_is_refused(client: TestClient, file_id: str) -> None:
    answer = client.post("/tunery/v1/validations", json={"file": file_id, "model": "gpt-9"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_available")


def test_rows_are_paged_by_line_and_searched(client: TestClient, file_id: str) -> None:
    address = f"/tunery/v1/files/{file_id}/rows"
    first = client.get(address, params={"model": MODEL, "limit": 2}).json()
    assert [row["line"] for row in first["data"]] == [1, 2] and first["has_more"]
    trained = [part["text"] for part in first["data"][0]["segments"] if part["kind"] == "trained"]
    assert trained == ["It is 0.<|im_end|>"]
    last = client.get(address, params={"after": 29, "limit": 2}).json()
    assert [row["line"] for row in last["data"]] == [30] and not last["has_more"]
    found = client.get(address, params={"search": "IT IS 58"}).json()
    assert [row["line"] for row in found["data"]] == [30]


def test_split_makes_two_files_of_the_same_rows(client: TestClient, file_id: str, rows: list[dict[str, Any]]) -> None:
    made = client.post(f"/tunery/v1/files/{file_id}/split", json={"validation_share": 0.2}).json()
    parts = [
        [json.loads(line) for line in client.get(f"/v1/files/{made[name]}/content").text.splitlines()]
        for name in ("training_file", "validation_file")
    ]
    assert [len(part) for part in parts] == [24, 6] == [made["num_training"], made["num_validation"]]
    assert sorted(map(json.dumps, parts[0] + parts[1])) == sorted(map(json.dumps, rows))
    name = client.get(f"/v1/files/{made['validation_file']}").json()["filename"]
    assert name == "train-valid.jsonl"


def test_preference_pairs_are_estimated_for_dpo(client: TestClient) -> None:
    pairs = upload(client, [pair_row(f"Say {n}.", f"{n}!", f"No {n}.") for n in range(10)])
    body = {"model": MODEL, "training_file": pairs, "method": {"type": "dpo"}}
    assert client.post("/tunery/v1/estimates", json=body).json()["hyperparameters"]["beta"] == 0.1
    wrong = client.post("/tunery/v1/estimates", json={"model": MODEL, "training_file": pairs}).json()
    assert "is not using 'dpo' as the training method (provided method=supervised)" in wrong["error"]["message"]


@pytest.mark.parametrize("path", ["validations", "estimates"])
def test_nobody_gets_in_without_a_key(client: TestClient, path: str) -> None:
    answer = client.post(f"/tunery/v1/{path}", json={}, headers={"authorization": "Bearer wrong"})
    assert answer.status_code == 401


# ---- tables
def table(client: TestClient, content: bytes, name: str = "faq.csv") -> str:
    answer = client.post("/v1/files", files={"file": (name, content)}, data={"purpose": "user_data"})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


CSV = "question,answer,tone\n" + "".join(f"{n}+{n}?,{2 * n},kind\n" for n in range(40)) + "why?,,kind\n"


def test_a_table_is_looked_at_and_becomes_a_training_file(client: TestClient) -> None:
    file_id = table(client, CSV.encode())
    found = client.post("/tunery/v1/tables/preview", json={"file": file_id, "limit": 10}).json()
    assert (found["num_rows"], found["is_whole"], found["mapping"]["assistant"]) == (10, False, "answer")
    assert found["rows"][3]["example"]["messages"][1]["content"] == "6"
    body = {"file": file_id, "columns": {**found["mapping"], "system": "tone"}, "stream": True}
    answer = client.post("/tunery/v1/tables/dataset", json=body)
    made = json.loads(answer.text.strip().splitlines()[-1].removeprefix("data: "))
    assert (made["num_examples"], made["num_left_out"], made["created"]["filename"]) == (40, 1, "faq-chat.jsonl")
    assert made["problems"][0]["problems"][0]["texts"]["message"]["key"] == "table.empty_cell"
    rows = client.get(f"/v1/files/{made['created']['id']}/content").text.splitlines()
    assert json.loads(rows[0])["messages"][0] == {"role": "system", "content": "kind"}


def test_columns_that_cannot_be_told_are_listed_and_wrong_wishes_refused(client: TestClient) -> None:
    file_id = table(client, b"a,b,c\none two,three,four\n")
    found = client.post("/tunery/v1/tables/preview", json={"file": file_id}).json()
    assert found["mapping"] is None and [column["name"] for column in found["columns"]] == ["a", "b", "c"]
    assert found["rows"][0]["cells"] == {"a": "one two", "b": "three", "c": "four"}
    for more, param in (
        ({"columns": {"user": "a"}}, "columns"),
        ({"columns": {"user": "a", "assistant": "z"}}, "columns"),
        ({"encoding": "no-such"}, "encoding"),
        ({"header_row": 900}, "header_row"),
    ):
        answer = client.post("/tunery/v1/tables/preview", json={"file": file_id, **more})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    answer = client.post("/tunery/v1/tables/dataset", json={"file": file_id})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "columns")


# ---- versions
def save(client: TestClient, file_id: str, **edits: Any) -> dict[str, Any]:
    answer = client.post(f"/tunery/v1/files/{file_id}/versions", json=edits)
    assert answer.status_code == 200, answer.text
    return answer.json()


def content(client: TestClient, file_id: str) -> list[Any]:
    return [json.loads(line) for line in client.get(f"/v1/files/{file_id}/content").text.splitlines()]


def test_each_save_is_a_new_file_that_knows_its_origin(client: TestClient, rows: list[dict[str, Any]]) -> None:
    first, new = upload(client, rows, "faq.jsonl"), chat_row("New?", "Yes.")
    edits = {"changed": [{"line": 2, "row": new}], "removed": [5, 6], "added": [{"after": 30, "row": new}]}
    edits["replace"] = {"find": "What is", "put": "How much is", "where": "user"}
    shown = client.post(f"/tunery/v1/files/{first}/versions/preview", json=edits).json()
    assert (shown["num_added"], shown["num_removed"], shown["num_changed"], shown["num_replaced"]) == (1, 2, 28, 27)
    assert shown["rows"][1]["before"] == rows[1] and shown["rows"][1]["after"] == new
    made = save(client, first, **edits)
    second = made["file"]["id"]
    assert (made["number"], made["parent"], made["dataset"], made["num_changed"]) == (2, first, first, 28)
    assert made["made_by"]["user_id"] and made["file"]["version"] == 2 and made["file"]["num_rows"] == 29
    assert content(client, first) == rows and content(client, second)[1] == content(client, second)[28] == new
    third = save(client, second, removed=[1])["file"]["id"]
    listed = client.get(f"/tunery/v1/files/{first}/versions").json()["data"]
    assert [each["file"]["id"] for each in listed] == [third, second, first]
    page = client.get(f"/tunery/v1/files/{second}/difference", params={"after": 27, "limit": 3}).json()
    assert [each["kind"] for each in page["data"]] == ["changed", "removed", "removed"] and page["next"] == 30
    assert client.get(f"/tunery/v1/files/{first}/difference").json()["data"] == []
    named = client.get("/tunery/v1/files", params={"search": third}).json()["data"]
    assert named[0]["version"] == 3


def test_whoever_saves_second_is_told_and_can_carry_the_edits_over(
    client: TestClient, rows: list[dict[str, Any]]
) -> None:
    first, mine, theirs = upload(client, rows), chat_row("Mine?", "1"), chat_row("Theirs?", "2")
    newest = save(client, first, removed=[1], changed=[{"line": 3, "row": theirs}])["file"]["id"]
    path = f"/tunery/v1/files/{first}/versions"
    edits = {"changed": [{"line": 3, "row": mine}, {"line": 7, "row": mine}]}
    codes = [client.post(path, json={**edits, **more}).json()["error"]["code"] for more in ({}, {"onto": newest})]
    assert codes == ["newer_version", "rows_changed_too"]
    both = content(client, save(client, first, **edits, onto=newest, prefer="theirs")["file"]["id"])
    assert both == [rows[1], theirs, *rows[3:6], mine, *rows[7:]]
    answer = client.post(path, json={**edits, "onto": newest, "prefer": "mine"})
    assert answer.json()["error"]["code"] == "newer_version"


def test_edits_that_cannot_be_made_are_refused(client: TestClient, file_id: str) -> None:
    path = f"/tunery/v1/files/{file_id}/versions"
    for edits, code in (
        ({}, "nothing_changed"),
        ({"removed": [99]}, None),
        ({"removed": [0]}, "integer_below_min_value"),
    ):
        answer = client.post(path, json=edits)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), answer.text
    other = table(client, CSV.encode())
    assert client.post(f"/tunery/v1/files/{other}/versions", json={"removed": [1]}).status_code == 400
    assert client.get("/tunery/v1/files/file-none/versions").status_code == 404


def test_rows_are_found_by_line_and_by_problem(client: TestClient, rows: list[dict[str, Any]]) -> None:
    bad = {"messages": [{"role": "user", "content": "?"}]}
    path = f"/tunery/v1/files/{upload(client, [*rows[:3], bad, *rows, bad])}/rows"
    found = client.get(path, params={"lines": "2,7, 4"}).json()["data"]
    assert [row["line"] for row in found] == [2, 4, 7]
    found = client.get(path, params={"problem": "no_assistant_message"}).json()["data"]
    assert [row["line"] for row in found] == [4, 35]
    assert client.get(path, params={"lines": "a"}).json()["error"]["param"] == "lines"
