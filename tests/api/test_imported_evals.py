"""Evals that are brought from another account over HTTP: looked at here, and run again by a successor."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from typer.testing import CliRunner

from tests.api.conftest import BASE, SECRET, Api
from tests.api.test_evals import quick, served, worked  # noqa: F401  fixtures
from tests.migrate.conftest import RecordedOpenAI, recorded_openai  # noqa: F401  fixture
from tests.migrate.installations import Installation
from tunery.cli.main import app
from tunery.migrate.bundle import Bundle
from tunery.migrate.fetch import fetch_all
from tunery.migrate.load import Loaded, Target, load_all
from tunery.migrate.source import Source

Json = dict[str, Any]
OLD = "ft:gpt-4o-mini-2024-07-18:acme:support:00000002"
GONE = "gpt-of-yore"
SCHEMA = {
    "type": "object",
    "properties": {"item": {"type": "object", "properties": {"q": {"type": "string"}, "a": {"type": "string"}}}},
    "required": ["item", "sample"],
}
SAME: Json = {
    "id": "same-6cc7ce10-1a87-4a36-94b3-51b8e5e4fd19",
    "type": "string_check",
    "name": "same",
    "input": "{{sample.output_text}}",
    "reference": "{{item.a}}",
    "operation": "eq",
}
MOOD: Json = {  # as the service gives it out, with its nulls
    "id": "mood-0c3ba4a5-7a7c-4a1b-9a7b-5f33d6d0a001",
    "type": "label_model",
    "name": "mood",
    "model": "gpt-4o",
    "input": [{"type": "message", "role": "user", "content": {"type": "input_text", "text": "{{item.q}}"}}],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
    "sampling_params": None,
}
PICTURE: Json = {  # what this server has no grader for
    **MOOD,
    "id": "picture-1",
    "name": "picture",
    "input": [{"type": "message", "role": "user", "content": {"type": "input_image", "image_url": "{{item.q}}"}}],
}
ASKED = [{"type": "message", "role": "user", "content": {"type": "input_text", "text": "Say {{item.q}}."}}]


def an_eval(number: int, *criteria: Json, **values: Any) -> Json:
    return {
        "id": f"eval_{number:032x}",
        "object": "eval",
        "name": f"Eval {number}",
        "created_at": 1_700_000_000 + number,
        "metadata": {},
        "data_source_config": {"type": "custom", "schema": SCHEMA},
        "testing_criteria": list(criteria or (SAME,)),
        **values,
    }


def a_run(number: int, of: Json, model: str = OLD, **values: Any) -> Json:
    source = {
        "type": "completions",
        "source": {"type": "file_id", "id": "file-gone"},
        "model": model,
        "input_messages": {"type": "template", "template": ASKED},
        "sampling_params": {"max_completions_tokens": 8, "seed": None},
    }
    counts = {"testing_criteria": SAME["id"], "passed": 1, "failed": 2}
    usage = {"model_name": model, "invocation_count": 3, "prompt_tokens": 30, "completion_tokens": 6}
    return {
        "id": f"evalrun_{number:032x}",
        "object": "eval.run",
        "eval_id": of["id"],
        "status": "completed",
        "model": model,
        "name": model,
        "created_at": 1_700_000_100 + number,
        "report_url": "https://platform.openai.com/evaluations/x",
        "result_counts": {"total": 3, "errored": 0, "failed": 2, "passed": 1},
        "per_model_usage": [{**usage, "total_tokens": 36, "cached_tokens": 0}],
        "per_testing_criteria_results": [counts],
        "data_source": source,
        "metadata": None,
        "error": None,
        **values,
    }


def an_item(row: int, run: Json) -> Json:
    """As recorded: rows begin with 1, and messages carry nulls."""
    message = {"role": "assistant", "content": f"answer {row}", "tool_calls": None, "function_call": None}
    return {
        "id": f"outputitem_{run['id'][8:]}{row}",
        "object": "eval.run.output_item",
        "run_id": run["id"],
        "eval_id": run["eval_id"],
        "created_at": 1_700_000_200 - row,
        "status": "pass" if row == 1 else "fail",
        "datasource_item_id": row,
        "datasource_item": {"q": f"word {row}", "a": "answer 1"},
        "results": [{"name": SAME["id"], "score": float(row == 1), "passed": row == 1, "sample": None}],
        "sample": {"input": [], "output": [message], "error": None, "seed": None, "finish_reason": "stop"},
    }


@pytest.fixture
def account(recorded_openai: RecordedOpenAI) -> RecordedOpenAI:  # noqa: F811
    made = recorded_openai
    plain, judged, odd = an_eval(1), an_eval(2, MOOD, metadata={"team": "x"}), an_eval(3, PICTURE)
    runs = [a_run(1, plain), a_run(2, plain, BASE), a_run(3, plain, GONE)]
    given = a_run(4, judged, "", data_source={"type": "jsonl", "source": {"type": "file_id", "id": "file-gone"}})
    running = a_run(5, plain, status="in_progress")
    made.evals = [plain, judged, odd]
    made.runs = {plain["id"]: [*runs, running], judged["id"]: [given], odd["id"]: [a_run(6, odd, BASE)]}
    made.items = {run["id"]: [an_item(row, run) for row in (3, 1, 2)] for each in made.runs.values() for run in each}
    return made


@pytest.fixture
def bundle(account: RecordedOpenAI, tmp_path: Path) -> Bundle:
    made = Bundle.create(tmp_path / "bundle", source=account.base_url, now=1)
    assert fetch_all(Source(account.client()), made).failures == {}
    return made


def load(api: Api, bundle: Bundle, project_id: str = "") -> Loaded:
    return load_all(bundle, Target(api.engine, api.context.blobs, project_id or api.project_id))


@pytest.fixture
def client(served: Api) -> Iterator[OpenAI]:  # noqa: F811
    context = served.context
    here = Installation(
        context.settings, served.engine, context.blobs, served.project_id, served.organization_id, SECRET
    )
    with here.serving() as found:
        yield found


def evals_again(client: OpenAI, *arguments: str) -> list[Json]:
    command = ["--base-url", str(client.base_url), "--api-key", SECRET, "migrate", "openai", "evals", *arguments]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_definitions_runs_and_rows_can_be_looked_at(account: RecordedOpenAI, bundle: Bundle, api: Api) -> None:
    assert load(api, bundle).new["evals"] == 3
    plain, judged, odd = api.client.get("/v1/evals").json()["data"]
    assert [each["id"] for each in (plain, judged, odd)] == [each["id"] for each in account.evals]
    assert (plain["name"], plain["data_source_config"], plain["testing_criteria"]) == (
        "Eval 1",
        account.evals[0]["data_source_config"],
        [SAME],
    )
    assert judged["metadata"] == {"team": "x", "imported_from": judged["id"]}
    runs = api.client.get(f"/v1/evals/{plain['id']}/runs").json()["data"]
    assert [run["id"] for run in runs] == [f"evalrun_{number:032x}" for number in (1, 2, 3)]
    old = account.runs[plain["id"]][0]
    for name in ("status", "model", "created_at", "result_counts", "per_model_usage", "data_source"):
        assert runs[0][name] == old[name], name
    assert runs[0]["per_testing_criteria_results"] == [{**old["per_testing_criteria_results"][0], "errored": 0}]
    path = f"/v1/evals/{plain['id']}/runs/{old['id']}/output_items"
    items = {each["datasource_item_id"]: each for each in api.client.get(path).json()["data"]}
    assert {row: each["status"] for row, each in items.items()} == {0: "pass", 1: "fail", 2: "fail"}
    assert items[1]["datasource_item"] == {"q": "word 2", "a": "answer 1"}
    assert items[1]["sample"]["output"][0]["content"] == "answer 2"
    assert api.client.get(f"{path}/{items[0]['id']}").json() == items[0]


def test_a_second_import_adds_what_has_ended_since(account: RecordedOpenAI, bundle: Bundle, api: Api) -> None:
    load(api, bundle)
    assert load(api, bundle).new["evals"] == 0
    account.runs[account.evals[0]["id"]][-1]["status"] = "canceled"
    fetch_all(Source(account.client()), bundle)
    assert load(api, bundle).new["evals"] == 1
    assert len(api.client.get(f"/v1/evals/{account.evals[0]['id']}/runs").json()["data"]) == 4


def test_what_another_project_has_is_not_taken_from_it(bundle: Bundle, api: Api) -> None:
    load(api, bundle)
    there = load(api, bundle, api.make_project())
    assert set(there.new.values()) == {0}
    assert {kind for kind, _ in there.skipped} == {"files", "jobs", "evals", "completions"}


@pytest.mark.parametrize(
    ("values", "is_loaded"),
    [
        ({"testing_criteria": []}, False),
        ({"data_source_config": {"type": "custom"}}, False),
        ({"data_source_config": {"type": "custom", "schema": {"properties": {"sample": {}}}}}, False),
        ({"name": None, "metadata": None, "created_at": None}, True),
        ({"testing_criteria": [{"type": "of the future", "name": None}]}, True),
    ],
)
def test_a_definition_of_an_odd_form_stays_in_the_bundle_or_is_shown(
    account: RecordedOpenAI, tmp_path: Path, api: Api, values: Json, is_loaded: bool
) -> None:
    account.evals = [an_eval(1, **values)] if "testing_criteria" not in values else [{**an_eval(1), **values}]
    bare = dict.fromkeys(("result_counts", "per_model_usage", "per_testing_criteria_results", "model"))
    account.runs[account.evals[0]["id"]] = [a_run(1, account.evals[0], **bare, error={"code": None, "message": None})]
    account.items = {f"evalrun_{1:032x}": [{**an_item(1, a_run(1, an_eval(1))), "sample": None, "results": None}]}
    bundle = Bundle.create(tmp_path / "odd", source="x", now=1)
    fetch_all(Source(account.client()), bundle)
    assert load(api, bundle).new["evals"] == int(is_loaded)
    found = [path for path in (f"/v1/evals/{account.evals[0]['id']}/runs",) if is_loaded]
    for path in found:
        [run] = api.client.get(path).json()["data"]
        assert (run["error"], run["result_counts"]["total"]) == (None, 0)
        [item] = api.client.get(f"{path}/{run['id']}/output_items").json()["data"]
        assert item["results"] == [] and item["sample"]["output"] == []


def test_runs_are_repeated_by_the_successors_beside_the_old_ones(bundle: Bundle, served: Api, client: OpenAI) -> None:  # noqa: F811
    load(served, bundle)
    root = str(client.base_url).rstrip("/").removesuffix("/v1")
    client.post(f"{root}/tunery/v1/aliases", cast_to=object, body={"name": OLD, "target": BASE})
    by_alias, by_name, gone, given, odd = evals_again(client)
    assert [each["reason"].split(":")[0] for each in (gone, given)] == [
        f"nothing here answers for {GONE}",
        "its answers came with its rows",
    ]
    for each in (by_alias, by_name, odd):
        assert (each["new"]["model"], each["reason"]) == (BASE, "")
        assert f"run_id={each['new']['run_id']}&against={each['old']['run_id']}" in each["report_url"]
    run = worked(served, {"eval_id": by_alias["eval_id"], "id": by_alias["new"]["run_id"]})
    assert (run["status"], run["result_counts"]["total"], run["result_counts"]["errored"]) == ("completed", 3, 0), run
    items = client.evals.runs.output_items.list(run["id"], eval_id=run["eval_id"])
    asked = {item.datasource_item_id: item.sample.input[0].content for item in items}
    assert asked == {0: "Say word 1.", 1: "Say word 2.", 2: "Say word 3."}, "the rows have the numbers of the old run"
    broken = worked(served, {"eval_id": odd["eval_id"], "id": odd["new"]["run_id"]})
    assert broken["status"] == "failed" and "input_image" in broken["error"]["message"]

    again = evals_again(client, by_alias["eval_id"])
    assert [each["new"] and each["new"]["run_id"] for each in again] == [
        by_alias["new"]["run_id"],
        by_name["new"]["run_id"],
        None,
    ], "nothing is repeated twice"
    assert again[0]["new"]["total"] == 3 and again[0]["old"]["passed"] == 1
    assert evals_again(client, by_alias["eval_id"], "--model", BASE)[2]["new"]["model"] == BASE


def test_what_was_retrained_stands_for_the_old_model(
    account: RecordedOpenAI,
    bundle: Bundle,
    served: Api,  # noqa: F811
    client: OpenAI,
) -> None:
    load(served, bundle)
    new = served.make_model(f"ft:{BASE}:personal:support:Ab12Cd34")
    [old_job] = [job["id"] for job in account.jobs if job["fine_tuned_model"] == OLD]
    served.make_job(fine_tuned_model=new.name, metadata={"retrained_from": old_job})
    assert evals_again(client)[0]["new"]["model"] == new.name
