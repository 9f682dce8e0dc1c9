"""Evals through the API and the worker's runner, with a real engine where a model answers."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.api.conftest import BASE, Api, leased_worker
from tests.rows import ledger as ledger_rows
from tests.rows import notices
from tunery.api import leased
from tunery.api.context import Context
from tunery.api.evals.runner import RunWork
from tunery.domain.completions import StoredCompletion
from tunery.store import completions, evals
from tunery.store.database import read, write

Json = dict[str, Any]
ENDED = ("completed", "failed", "canceled")
CUSTOM = {
    "type": "custom",
    "item_schema": {"type": "object", "properties": {"q": {"type": "string"}, "a": {"type": "string"}}},
    "include_sample_schema": True,
}
SAME: Json = {
    "type": "string_check",
    "name": "same",
    "input": "{{sample.output_text}}",
    "reference": "{{ item.a }}",
    "operation": "eq",
}
ALIKE: Json = {
    "type": "text_similarity",
    "name": "alike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
    "evaluation_metric": "fuzzy_match",
    "pass_threshold": 0.5,
}
ASKED = {"type": "template", "template": [{"role": "user", "content": "Say {{item.q}}."}]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leased, "POLL_S", 0.02)
    monkeypatch.setattr(leased, "BEAT_S", 0.02)


@pytest.fixture
def served(make_api: Callable[..., Api], engine_url: str) -> Api:
    return make_api(engine_urls=[engine_url], batch_concurrency=4)


worker = partial(leased_worker, kind=RunWork)

ALONE = """
import threading
from tunery.api.context import Context
from tunery.api.evals.runner import RunWork
from tunery.api.leased import LeasedRunner
from tunery.jobs.identity import this_worker
from tunery.settings import load_settings
LeasedRunner(Context.open(load_settings()), this_worker(), (RunWork,)).run(threading.Event())
"""


@contextmanager
def killed_worker(context: Context) -> Iterator[None]:
    """The same as a process, ended by SIGKILL: it can let go of nothing."""
    with subprocess.Popen([sys.executable, "-c", ALONE], env=os.environ | context.settings.as_environment()) as process:
        try:
            yield
        finally:
            process.kill()


def make(api: Api, *criteria: Json, config: Json | None = None, **values: Any) -> str:
    body = {"data_source_config": config or CUSTOM, "testing_criteria": list(criteria or (SAME,)), **values}
    answer = api.client.post("/v1/evals", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def inline(*rows: Json) -> Json:
    return {"type": "jsonl", "source": {"type": "file_content", "content": list(rows)}}


def row(answer: str, wanted: str = "yes") -> Json:
    return {"item": {"q": "?", "a": wanted}, "sample": {"output_text": answer}}


def start(api: Api, eval_id: str, data_source: Json, **values: Any) -> Json:
    answer = api.client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": data_source, **values})
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "queued"
    return answer.json()


def until(api: Api, run: Json, *statuses: str) -> Json:
    deadline = time.monotonic() + 120
    while (found := get(api, run))["status"] not in statuses:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def get(api: Api, run: Json) -> Json:
    return api.client.get(f"/v1/evals/{run['eval_id']}/runs/{run['id']}").json()


def worked(api: Api, run: Json) -> Json:
    with worker(api.context):
        return until(api, run, *ENDED)


def items(api: Api, run: Json, **query: Any) -> list[Json]:
    """In the order of the rows."""
    path = f"/v1/evals/{run['eval_id']}/runs/{run['id']}/output_items"
    found = api.client.get(path, params={"limit": 100, **query}).json()["data"]
    return sorted(found, key=lambda item: item["datasource_item_id"])


def counts(run: Json) -> tuple[int, int, int, int]:
    found = run["result_counts"]
    return found["total"], found["passed"], found["failed"], found["errored"]


def refused(api: Api, path: str, body: Json) -> tuple[int, str | None, str | None]:
    answer = api.client.post(path, json=body)
    error = answer.json()["error"]
    assert error["message"]
    return answer.status_code, error["param"], error["code"]


# ---- definitions


def test_an_eval_is_given_out_as_openai_gives_it_out(api: Api) -> None:
    judge = {
        "type": "label_model",
        "name": "mood",
        "model": "gpt-4o",
        "input": [{"role": "user", "content": "{{item.q}}"}],
        "labels": ["good", "bad"],
        "passing_labels": ["good"],
    }
    eval_id = make(api, {**SAME, "operation": "neq"}, judge, name="Tickets", metadata={"for": "a test"})
    found = api.client.get(f"/v1/evals/{eval_id}").json()
    schema = found["data_source_config"]["schema"]
    assert schema["properties"]["item"] == CUSTOM["item_schema"] and schema["required"] == ["item", "sample"]
    assert "item_schema" not in found["data_source_config"]
    first, second = found["testing_criteria"]
    assert first["operation"] == "ne" and first["id"].startswith("same-")
    assert second["input"] == [
        {"type": "message", "role": "user", "content": {"type": "input_text", "text": "{{item.q}}"}}
    ]
    assert (found["name"], found["metadata"], found["object"]) == ("Tickets", {"for": "a test"}, "eval")


def test_evals_are_listed_renamed_and_deleted(api: Api) -> None:
    first, second = make(api, name="first"), make(api)
    api.clock.now += 10
    renamed = api.client.post(f"/v1/evals/{first}", json={"name": "1st"}).json()
    assert renamed["name"] == "1st"
    listed = api.client.get("/v1/evals").json()
    assert [each["id"] for each in listed["data"]] == [first, second]
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == (first, second, False)
    by = api.client.get("/v1/evals", params={"order_by": "updated_at", "order": "desc", "limit": 1}).json()
    assert ([each["id"] for each in by["data"]], by["has_more"]) == ([first], True)
    gone = api.client.delete(f"/v1/evals/{first}").json()
    assert gone == {"object": "eval.deleted", "deleted": True, "eval_id": first}
    assert api.client.get(f"/v1/evals/{first}").status_code == 404


@pytest.mark.parametrize(
    ("criterion", "param"),
    [
        ({**SAME, "input": "{{itme.q}}"}, "testing_criteria[0]"),
        ({**SAME, "input": "{{item.nothing}}"}, "testing_criteria[0]"),
        ({**SAME, "operation": "is"}, "testing_criteria[0].operation"),
        ({**SAME, "name": ""}, "testing_criteria[0].name"),
        ({**ALIKE, "pass_threshold": None}, "testing_criteria[0].pass_threshold"),
        ({**ALIKE, "evaluation_metric": "luck"}, "testing_criteria[0].evaluation_metric"),
        ({**SAME, "type": "multi"}, "testing_criteria[0]"),
        ({"type": "python", "name": "p", "source": "x" * 300_000}, "testing_criteria[0].source"),
        (
            {
                "type": "label_model",
                "name": "l",
                "model": "m",
                "input": [{"role": "user", "content": "x"}],
                "labels": ["a"],
                "passing_labels": ["b"],
            },
            "testing_criteria[0].passing_labels",
        ),
        (
            {"type": "score_model", "name": "s", "model": "m", "input": [{"role": "judge", "content": "x"}]},
            "testing_criteria[0].input[0].role",
        ),
        (
            {
                "type": "score_model",
                "name": "s",
                "model": "m",
                "input": [{"role": "user", "content": {"type": "input_image", "image_url": "https://x"}}],
            },
            "testing_criteria[0].input[0].content.type",
        ),
        (
            {
                "type": "score_model",
                "name": "s",
                "model": "m",
                "range": [1, 0],
                "input": [{"role": "user", "content": "x"}],
            },
            "testing_criteria[0].range",
        ),
    ],
)
def test_a_criterion_that_could_never_grade_is_refused(api: Api, criterion: Json, param: str) -> None:
    body = {"data_source_config": CUSTOM, "testing_criteria": [criterion]}
    assert refused(api, "/v1/evals", body)[:2] == (400, param)
    assert api.client.get("/v1/evals").json()["data"] == []


@pytest.mark.parametrize(
    ("config", "param"),
    [
        ({"type": "custom"}, "data_source_config.item_schema"),
        ({"type": "custom", "item_schema": {}, "metadata": {}}, "data_source_config.metadata"),
        ({"type": "logs", "item_schema": {}}, "data_source_config.item_schema"),
        ({"type": "table"}, "data_source_config.type"),
        ({"type": "custom", "item_schema": {}}, "testing_criteria[0]"),  # which names the sample
    ],
)
def test_a_source_that_no_row_could_come_from_is_refused(api: Api, config: Json, param: str) -> None:
    assert refused(api, "/v1/evals", {"data_source_config": config, "testing_criteria": [SAME]})[1] == param


GIVEN = {"type": "file_content", "content": [row("yes")]}


@pytest.mark.parametrize(
    ("data_source", "param"),
    [
        ({"type": "jsonl", "source": {"type": "file_content", "content": []}}, "data_source.source.content"),
        ({"type": "jsonl", "source": {"type": "file_content"}}, "data_source.source.content"),
        ({"type": "jsonl", "source": {"type": "file_id", "id": "file-none"}}, "data_source.source.id"),
        ({"type": "jsonl", "source": {"type": "stored_completions"}}, "data_source.source.type"),
        ({"type": "jsonl", "source": GIVEN, "model": BASE}, "data_source.model"),
        ({"type": "jsonl", "source": {**GIVEN, "limit": 3}}, "data_source.source.limit"),
        ({"type": "completions", "source": GIVEN, "model": BASE}, "data_source.input_messages"),
        ({"type": "completions", "source": GIVEN, "input_messages": ASKED}, "data_source.model"),
        (
            {
                "type": "completions",
                "source": GIVEN,
                "model": BASE,
                "input_messages": {"type": "item_reference", "item_reference": "item.nothing"},
            },
            "data_source.input_messages.item_reference",
        ),
        (
            {
                "type": "completions",
                "source": GIVEN,
                "model": BASE,
                "input_messages": {"type": "template", "template": [{"role": "user", "content": "{{sample.x}}"}]},
            },
            "data_source.input_messages.template[0]",
        ),
        (
            {
                "type": "completions",
                "source": GIVEN,
                "model": BASE,
                "input_messages": ASKED,
                "sampling_params": {"n": 2},
            },
            "data_source.sampling_params.n",
        ),
        ({"type": "responses", "source": {"type": "responses", "limit": 0}}, "data_source.source.limit"),
    ],
)
def test_a_run_that_could_not_be_carried_out_is_refused(api: Api, data_source: Json, param: str) -> None:
    path = f"/v1/evals/{make(api)}/runs"
    assert refused(api, path, {"data_source": data_source})[:2] == (400, param)
    assert api.client.get(path).json()["data"] == []


# ---- runs


def test_rows_that_were_answered_already_are_graded_by_every_criterion(api: Api) -> None:
    api.client.post(
        "/v1/webhook_endpoints",
        json={"name": "x", "url": "https://example.com/", "event_types": ["eval.run.succeeded"]},
    )
    eval_id = make(api, SAME, ALIKE)
    run = start(api, eval_id, inline(row("yes"), row("yess"), row("no")), name="mine", metadata={"a": "b"})
    assert (run["model"], run["name"], run["metadata"], run["error"]) == ("", "mine", {"a": "b"}, None)
    assert run["report_url"].endswith(f"/evals/{eval_id}?run_id={run['id']}")
    run = worked(api, run)
    assert (run["status"], counts(run)) == ("completed", (3, 1, 2, 0)), run
    same, alike = (each["id"] for each in api.client.get(f"/v1/evals/{eval_id}").json()["testing_criteria"])
    by_criterion = {each.pop("testing_criteria"): each for each in run["per_testing_criteria_results"]}
    assert by_criterion == {
        same: {"passed": 1, "failed": 2, "errored": 0},
        alike: {"passed": 2, "failed": 1, "errored": 0},
    }
    found = items(api, run)
    assert [item["status"] for item in found] == ["pass", "fail", "fail"]
    assert [item["datasource_item_id"] for item in found] == [0, 1, 2]
    assert found[0]["datasource_item"] == {"q": "?", "a": "yes"}
    assert [result["name"] for result in found[1]["results"]] == [same, alike]
    assert found[1]["sample"]["output"] == [{"role": "assistant", "content": "yess"}]
    assert len(items(api, run, status="fail")) == 2
    one = api.client.get(f"/v1/evals/{eval_id}/runs/{run['id']}/output_items/{found[0]['id']}").json()
    assert one == found[0]
    with read(api.engine) as conn:
        assert [(each.topic, each.payload["data"]) for each in notices(conn, api.project_id)] == [
            ("eval.run.succeeded", {"id": run["id"]})
        ]


@pytest.mark.parametrize("kind", ["completions", "responses"])
def test_a_model_answers_rows_of_a_file_as_it_would_a_live_request(served: Api, kind: str) -> None:
    lines = [json.dumps({"item": {"q": str(number), "a": "x"}}).encode() for number in range(5)]
    file = served.make_file(b"\n".join([*lines, b"", b"{"]), purpose="evals")
    source = {
        "type": kind,
        "source": {"type": "file_id", "id": file["id"]},
        "input_messages": ASKED,
        "model": BASE,
        "sampling_params": {"temperature": 0, "max_completions_tokens": 16},
    }
    run = start(served, make(served), source)
    assert run["data_source"]["input_messages"]["template"][0]["type"] == "message"
    run = worked(served, run)
    assert (run["status"], run["model"], run["name"]) == ("completed", BASE, BASE)
    assert (run["result_counts"]["total"], run["result_counts"]["errored"]) == (6, 1)
    found = items(served, run)
    live = served.client.post(
        "/v1/chat/completions",
        json={
            "model": BASE,
            "messages": [{"role": "user", "content": "Say 3."}],
            "temperature": 0,
            "seed": 42,
            "max_completion_tokens": 16,
        },
    ).json()
    assert found[3]["sample"]["output"][0]["content"] == (live["choices"][0]["message"]["content"] or "")
    assert found[3]["sample"]["input"] == [{"role": "user", "content": "Say 3."}]
    assert (found[5]["status"], found[5]["sample"]["error"]["code"]) == ("error", "invalid_row")
    [usage] = run["per_model_usage"]
    with read(served.engine) as conn:
        bills = [each for each in ledger_rows(conn, served.project_id) if each.is_batch]
    assert usage["invocation_count"] == 5 == len(bills)
    assert usage["prompt_tokens"] == sum(each.input_tokens for each in bills)
    assert usage["completion_tokens"] == sum(each.output_tokens for each in bills)
    assert all(each["sample"]["usage"]["total_tokens"] > 0 for each in found[:5])


def store(api: Api, number: int, answer: str, model: str = BASE) -> None:
    messages = [{"role": "user", "content": f"Question {number}"}]
    choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
    made = StoredCompletion(
        f"chatcmpl-{number}",
        api.project_id,
        int(api.clock()) - 100 + number,
        model,
        {"model": model, "messages": messages},
        {"choices": [choice]},
        {"use": "support"} if number % 2 else None,
    )
    with write(api.engine) as conn:
        completions.insert_completion(conn, made)


def test_stored_completions_are_graded_as_they_are_and_asked_again_of_another_model(served: Api) -> None:
    for number in range(6):
        store(served, number, f"Answer {number}")
    about = {**SAME, "operation": "like", "reference": "Answer"}
    of_input = {**SAME, "name": "asked", "operation": "like", "input": "{{item.input}}", "reference": "Question"}
    eval_id = make(served, about, of_input, config={"type": "stored_completions", "metadata": {"use": "support"}})
    source = {"type": "stored_completions", "limit": 2}
    as_stored = worked(served, start(served, eval_id, {"type": "completions", "source": source}))
    assert (as_stored["status"], counts(as_stored)) == ("completed", (2, 2, 0, 0)), as_stored
    texts = {item["sample"]["output"][0]["content"] for item in items(served, as_stored)}
    assert texts == {"Answer 5", "Answer 3"}
    again = {"type": "completions", "source": source, "model": BASE, "sampling_params": {"max_completion_tokens": 4}}
    anew = worked(served, start(served, eval_id, again))
    assert (anew["status"], anew["result_counts"]["errored"]) == ("completed", 0)
    asked = {item["sample"]["input"][0]["content"] for item in items(served, anew)}
    assert asked == {"Question 5", "Question 3"}
    assert anew["per_model_usage"][0]["invocation_count"] == 2


def test_what_is_wrong_with_a_row_is_its_own_error(api: Api) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "q": {"type": "string"}}, "required": ["q"]}
    eval_id = make(api, config={**CUSTOM, "item_schema": schema})
    rows = [row("yes"), {"item": {"a": "x"}}, {"item": {"q": 1, "a": "x"}}, {"item": {"q": "?"}}]
    run = worked(api, start(api, eval_id, inline(*rows)))
    assert (run["status"], counts(run)) == ("completed", (4, 1, 0, 3))
    found = items(api, run)
    assert [(item["sample"]["error"] or {}).get("code") for item in found[1:]] == ["invalid_row", "invalid_row", None]
    assert found[3]["results"][0]["error"]["code"] == "invalid_variable_error"
    assert found[3]["results"][0]["passed"] is False
    assert [item["status"] for item in found] == ["pass", "error", "error", "error"]


def test_a_file_that_is_deleted_in_between_fails_the_run(api: Api) -> None:
    file = api.make_file(json.dumps(row("yes")).encode(), purpose="evals")
    run = start(api, make(api), {"type": "jsonl", "source": {"type": "file_id", "id": file["id"]}})
    api.client.delete(f"/v1/files/{file['id']}")
    run = worked(api, run)
    assert (run["status"], run["error"]["code"]) == ("failed", "file_not_found")


def test_a_key_that_may_no_longer_ask_ends_its_run(api: Api) -> None:
    secret = api.make_key()
    answer = api.client.post(
        f"/v1/evals/{make(api)}/runs", json={"data_source": inline(row("yes"))}, headers=api.as_key(secret)
    )
    run = answer.json()
    keys = api.client.get(f"/v1/organization/projects/{api.project_id}/api_keys").json()["data"]
    made = next(key for key in keys if key["name"] == "made by a test")
    api.client.delete(f"/v1/organization/projects/{api.project_id}/api_keys/{made['id']}")
    run = worked(api, run)
    assert (run["status"], run["error"]["code"]) == ("failed", "invalid_api_key")


def cancel(api: Api, run: Json, path: str = "/cancel") -> tuple[int, str]:
    answer = api.client.post(f"/v1/evals/{run['eval_id']}/runs/{run['id']}{path}")
    return answer.status_code, answer.json().get("status", "")


@pytest.mark.parametrize("path", ["/cancel", ""])
def test_a_run_is_canceled_before_it_begins_and_not_after_its_end(api: Api, path: str) -> None:
    run = start(api, make(api), inline(row("yes")))
    assert cancel(api, run, path) == cancel(api, run, path) == (200, "canceled")
    other = start(api, run["eval_id"], inline(row("yes")))
    assert worked(api, other)["status"] == "completed"
    assert get(api, run)["status"] == "canceled" and items(api, run) == []
    assert cancel(api, other, path)[0] == 400


def before_the_first_row(api: Api, run: Json) -> None:
    with write(api.engine) as conn:
        assert evals.LEASES.claim(conn, "worker", now=api.clock(), lease_s=60)
        assert evals.start_run(conn, run["id"], "worker", api.clock(), num_rows=1, answer_ids=None)


def without_its_file(api: Api, run: Json) -> None:
    api.client.delete(f"/v1/files/{run['data_source']['source']['id']}")


def failed(api: Api, run: Json) -> None:
    without_its_file(api, run)
    assert worked(api, run)["status"] == "failed"


def without_its_eval(api: Api, run: Json) -> None:
    api.client.delete(f"/v1/evals/{run['eval_id']}")


@pytest.mark.parametrize(
    ("become", "answer", "is_canceled"),
    [
        (before_the_first_row, (200, "canceled"), True),
        (without_its_file, (200, "canceled"), True),
        (failed, (400, ""), False),
        (without_its_eval, (404, ""), False),
    ],
)
def test_a_run_is_canceled_whatever_has_become_of_it(
    api: Api, become: Callable[[Api, Json], None], answer: tuple[int, str], is_canceled: bool
) -> None:
    file = api.make_file(json.dumps(row("yes")).encode(), purpose="evals")
    run = start(api, make(api), {"type": "jsonl", "source": {"type": "file_id", "id": file["id"]}})
    become(api, run)
    before = get(api, run)
    assert cancel(api, run) == cancel(api, run) == answer
    other = start(api, make(api), inline(row("yes")))
    assert worked(api, other)["status"] == "completed"  # the worker had the time to touch the first
    assert get(api, run).get("status") == ("canceled" if is_canceled else before.get("status"))
    with write(api.engine) as conn:
        assert not evals.add_items(conn, run["id"], "worker", [])


def test_a_run_that_is_canceled_or_deleted_in_its_midst_leaves_off(served: Api) -> None:
    source = {
        "type": "completions",
        "source": {"type": "file_content", "content": [{"item": {"q": str(n), "a": "x"}} for n in range(400)]},
        "input_messages": ASKED,
        "model": BASE,
        "sampling_params": {"max_completion_tokens": 32},
    }
    eval_id = make(served)
    runs = [start(served, eval_id, source) for _ in range(2)]
    with worker(served.context):
        for run in runs:
            while not counts(get(served, run))[2]:
                time.sleep(0.02)
        assert cancel(served, runs[0]) == (200, "canceled")
        assert served.client.delete(f"/v1/evals/{eval_id}/runs/{runs[1]['id']}").status_code == 200
        last = start(served, eval_id, inline(row("yes")))
        assert until(served, last, *ENDED)["status"] == "completed"
    canceled = get(served, runs[0])
    assert canceled["status"] == "canceled" and 0 < len(items(served, canceled)) < 400
    assert counts(canceled)[2] == counts(canceled)[0] - (400 - counts(canceled)[2])
    assert served.client.get(f"/v1/evals/{eval_id}/runs/{runs[1]['id']}").status_code == 404


@pytest.mark.parametrize("ended", [worker, killed_worker])
def test_the_next_worker_goes_on_where_one_was_ended_and_each_row_is_graded_once(
    served: Api, ended: Callable[[Context], AbstractContextManager[None]]
) -> None:
    source = {
        "type": "completions",
        "source": {"type": "file_content", "content": [{"item": {"q": str(n), "a": "x"}} for n in range(60)]},
        "input_messages": ASKED,
        "model": BASE,
        "sampling_params": {"max_completion_tokens": 16},
    }
    run = start(served, make(served), source)
    with ended(served.context):
        while not counts(get(served, run))[2]:
            time.sleep(0.01)
    assert get(served, run)["status"] == "in_progress"
    run = worked(served, run)
    assert (run["status"], run["result_counts"]["total"], run["result_counts"]["errored"]) == ("completed", 60, 0)
    assert counts(run) == (60, 0, 60, 0)
    assert [item["datasource_item_id"] for item in items(served, run)] == list(range(60))
    with read(served.engine) as conn:
        bills = ledger_rows(conn, served.project_id)
    assert run["per_model_usage"][0]["invocation_count"] == 60 == len(bills)


# ---- judges and python


def judge(kind: str, model: str = BASE, **values: Any) -> Json:
    """Of 400 tokens: the random model may go on with digits for long."""
    sampling = {"temperature": 0, "seed": 1, "max_completions_tokens": 400}
    asked = [{"role": "user", "content": "How is {{sample.output_text}}?"}]
    return {"type": kind, "name": kind, "model": model, "input": asked, "sampling_params": sampling, **values}


LABELS: Json = {"labels": ["good", "bad"], "passing_labels": ["good", "bad"]}


def test_a_judge_gives_one_of_the_labels_and_is_counted(served: Api) -> None:
    eval_id = make(served, judge("label_model", **LABELS), judge("label_model", "gpt-17", **LABELS))
    run = worked(served, start(served, eval_id, inline(row("yes"), row("no"))))
    assert (run["status"], counts(run)) == ("completed", (2, 0, 0, 2))  # nobody serves the second judge
    for item in items(served, run):
        first, second = item["results"]
        said = json.loads(first["sample"]["output"][0]["content"])
        assert (first["passed"], first["score"], set(said)) == (True, 1.0, {"result"})
        assert said["result"] in LABELS["labels"]
        assert first["sample"]["input"][0]["content"].startswith("How is ")
        assert (second["passed"], second["error"]["code"]) == (False, "model_not_found")
    [usage] = run["per_model_usage"]
    with read(served.engine) as conn:
        assert [each.is_batch for each in ledger_rows(conn, served.project_id)] == [True, True]
    assert usage["model_name"] == BASE and usage["invocation_count"] == 2


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('{"choices": [{"message": {"content": "{\\"result\\": 0.75}"}}], "usage": {"prompt_tokens": 3}}', None),
        ('{"choices": [{"message": {"content": "{\\"result\\": 7}"}}]}', None),  # as much as there is
        ('{"choices": [{"message": {"content": "well"}}]}', "model_grader_parse_error"),
        ('{"choices": [{"message": {"content": "{\\"result\\": true}"}}]}', "model_grader_parse_error"),
        ('{"choices": []}', "model_grader_parse_error"),
        ("[1]", "model_grader_parse_error"),
        ('{"choices": [{"message": {"refusal": "no"}}]}', "model_grader_refusal_error"),
        ("nonsense", "model_grader_server_error"),
    ],
)
def test_a_judge_elsewhere_that_answers_nonsense_is_the_rows_error(
    make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch, said: str, code: str | None
) -> None:
    monkeypatch.setattr(leased, "RETRY_S", 0.01)

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api = make_api(judge_url=f"http://127.0.0.1:{server.server_port}/v1")
        grader = judge("score_model", "their-judge", pass_threshold=0.7)
        run = worked(api, start(api, make(api, grader), inline(row("yes"))))
        server.shutdown()
    [item] = items(api, run)
    assert run["status"] == "completed"
    assert (item["results"][0].get("error") or {}).get("code") == code
    assert item["status"] == ("pass" if code is None else "error")
    if code is None:
        assert item["results"][0]["score"] == (0.75 if "0.75" in said else 1.0)
        assert run["per_model_usage"][0]["model_name"] == "their-judge"


def test_python_grades_with_the_row_and_what_it_raises_is_the_rows_error(api: Api) -> None:
    source = "def grade(sample, item):\n    return float(item['a'] in sample['output_text']) / item.get('by', 1)"
    grader = {"type": "python", "source": source, "pass_threshold": 1}
    rows = [row("yes!"), row("no"), row("yes"), {"item": {"q": "?", "a": "x"}}]
    rows[2]["item"]["by"] = 0
    run = worked(api, start(api, make(api, grader), inline(*rows)))
    assert (run["status"], counts(run)) == ("completed", (4, 1, 1, 2))
    found = items(api, run)
    assert [item["results"][0]["score"] for item in found] == [1, 0, 0, 0]
    assert "ZeroDivisionError" in found[2]["results"][0]["error"]["message"]
    assert {item["results"][0]["type"] for item in found} == {"python-grader"}
    unusable = {"type": "python", "name": "p", "source": "def grades(sample, item): return 1"}
    body = {"data_source_config": CUSTOM, "testing_criteria": [unusable]}
    assert refused(api, "/v1/evals", body)[:2] == (400, "testing_criteria[0].source")
