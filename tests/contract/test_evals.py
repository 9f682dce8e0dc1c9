"""What OpenAI's guides do with evals, by the official client: a classification checked by its text, summaries that a
model judges, stored completions of two models. And the same from the command line."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from typer.testing import CliRunner

from tests.api.conftest import BASE, SECRET, leased_worker
from tests.contract.conftest import Live
from tunery.api.evals.runner import RunWork
from tunery.cli.main import app

GREEDY: dict[str, Any] = {"temperature": 0, "max_completions_tokens": 8}


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[OpenAI]:
    """With a worker at the server. Not strict: OpenAI's service gives nulls that its client's types do not know."""
    with leased_worker(live.context, RunWork):
        yield OpenAI(api_key=SECRET, base_url=live.base_url, max_retries=0)


def ended(client: OpenAI, run: Any) -> Any:
    while (found := client.evals.runs.retrieve(run.id, eval_id=run.eval_id)).status in ("queued", "in_progress"):
        time.sleep(0.1)
    assert found.status == "completed", found
    return found


def items(client: OpenAI, run: Any) -> list[Any]:
    return list(client.evals.runs.output_items.list(run.id, eval_id=run.eval_id))


def test_tickets_are_classified_and_checked_by_their_label(client: OpenAI, tmp_path: Path) -> None:
    properties = {name: {"type": "string"} for name in ("ticket_text", "correct_label")}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    made = client.evals.create(
        name="IT Ticket Categorization",
        data_source_config={"type": "custom", "item_schema": schema, "include_sample_schema": True},
        testing_criteria=[
            {
                "type": "string_check",
                "name": "Match output to human label",
                "input": "{{ sample.output_text }}",
                "operation": "eq",
                "reference": "{{ item.correct_label }}",
            }
        ],
    )
    rows = [{"item": {"ticket_text": f"My {thing} is broken", "correct_label": "Hardware"}} for thing in ("a", "b")]
    path = tmp_path / "tickets.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    file = client.files.create(file=path, purpose="evals")
    run = client.evals.runs.create(
        made.id,
        name="Categorization text run",
        data_source={
            "type": "completions",
            "model": BASE,
            "input_messages": {
                "type": "template",
                "template": [
                    {
                        "role": "developer",
                        "content": "Respond with one word: Hardware, Software, Other.",
                    },
                    {"role": "user", "content": "{{ item.ticket_text }}"},
                ],
            },
            "source": {"type": "file_id", "id": file.id},
            "sampling_params": GREEDY,  # pyright: ignore[reportArgumentType]  as the service spells it
        },
    )
    run = ended(client, run)
    assert run.result_counts.total == 2 and run.result_counts.errored == 0
    assert run.per_testing_criteria_results[0].testing_criteria == made.testing_criteria[0].id  # type: ignore[union-attr]
    for item in items(client, run):
        assert item.results[0].passed == (item.sample.output[0].content == item.datasource_item["correct_label"])
    assert [each.id for each in client.evals.runs.list(made.id, status="completed")] == [run.id]


def test_summaries_are_judged_by_a_model(client: OpenAI) -> None:
    made = client.evals.create(
        name="Push notification summaries",
        data_source_config={
            "type": "custom",
            "item_schema": {"type": "object", "properties": {"notifications": {"type": "string"}}},
            "include_sample_schema": True,
        },
        testing_criteria=[
            {
                "type": "score_model",
                "name": "Quality",
                "model": BASE,
                "range": [1, 7],
                "pass_threshold": 5.5,
                "input": [
                    {"role": "developer", "content": "Grade the summary of: {{item.notifications}}"},
                    {"role": "user", "content": "{{sample.output_text}}"},
                ],
            },
            {
                "type": "label_model",
                "name": "Conciseness",
                "model": BASE,
                "input": [{"role": "user", "content": "{{sample.output_text}}"}],
                "labels": ["correct", "incorrect"],
                "passing_labels": ["correct"],
            },
        ],
    )
    run = client.evals.runs.create(
        made.id,
        data_source={
            "type": "completions",
            "model": BASE,
            "input_messages": {
                "type": "template",
                "template": [{"role": "user", "content": "Summarise: {{item.notifications}}"}],
            },
            "source": {
                "type": "file_content",
                "content": [{"item": {"notifications": "- New message from Ada"}}],
            },
            "sampling_params": GREEDY,  # pyright: ignore[reportArgumentType]
        },
    )
    run = ended(client, run)
    [item] = items(client, run)
    score, label = item.results
    if "error" not in (score.model_extra or {}):  # the random model may go on with digits for ever
        assert 1 <= score.score <= 7 and score.passed == (score.score >= 5.5)
    said = json.loads(label.sample["output"][0]["content"])
    assert label.passed == (said["result"] == "correct") and said["result"] in ("correct", "incorrect")
    assert run.per_model_usage[0].invocation_count == 3


def test_stored_completions_of_two_models_are_compared(client: OpenAI) -> None:
    for number in range(2):
        client.chat.completions.create(
            model=BASE,
            messages=[{"role": "user", "content": f"Question {number}"}],
            max_completion_tokens=4,
            store=True,
            metadata={"use": "evals", "n": str(number)},
        )
    made = client.evals.create(
        name="Stored",
        data_source_config={"type": "logs", "metadata": {"use": "evals"}},
        testing_criteria=[
            {
                "type": "string_check",
                "name": "Asked",
                "input": "{{item.input}}",
                "operation": "like",
                "reference": "Question",
            }
        ],
    )
    source: Any = {"type": "stored_completions", "metadata": {"use": "evals"}}
    as_stored = client.evals.runs.create(made.id, name="old", data_source={"type": "completions", "source": source})
    anew: Any = {"type": "completions", "source": source, "model": "gpt-4o-mini", "sampling_params": GREEDY}
    anew["input_messages"] = {"type": "item_reference", "item_reference": "item.input"}
    again = client.evals.runs.create(made.id, name="new", data_source=anew)
    for run in (as_stored, again):
        found = ended(client, run)
        assert (found.result_counts.total, found.result_counts.passed) == (2, 2)
        asked = {item.sample.input[0].content for item in items(client, found)}
        assert asked == {"Question 0", "Question 1"}
    assert client.evals.runs.delete(again.id, eval_id=made.id).deleted
    assert client.evals.delete(made.id).eval_id == made.id


def test_the_command_line_creates_runs_and_reads(
    live: Live, client: OpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def tunery(*words: object) -> str:
        done = CliRunner().invoke(app, ["--base-url", live.base_url, "--api-key", SECRET, *map(str, words)])
        assert done.exit_code == 0, done.output
        return done.stdout

    same = {"type": "string_check", "name": "same", "operation": "eq", "reference": "x"}
    body = {
        "data_source_config": {"type": "custom", "item_schema": {"type": "object"}},
        "testing_criteria": [{**same, "input": "{{item.a}}"}],
    }
    definition, rows = tmp_path / "eval.json", tmp_path / "rows.jsonl"
    definition.write_text(json.dumps(body))
    rows.write_text("".join(json.dumps({"item": {"a": each}}) + "\n" for each in "xyx"))
    eval_id = tunery("evals", "create", definition, "--name", "Mine").strip()
    told = tunery("evals", "run", eval_id, rows, "--watch", "--json").strip().split("\n")
    run = json.loads(told[-1])
    assert (run["status"], run["result_counts"]["passed"]) == ("completed", 2)
    assert "2 of 3" in tunery("evals", "get", eval_id)
    assert eval_id in tunery("evals", "list")
    [failed] = json.loads(tunery("evals", "results", run["id"], "--failed", "--json"))
    assert (failed["datasource_item_id"], failed["status"]) == (1, "fail")
    assert "same 0" in tunery("evals", "results", run["id"], "--eval", eval_id)
