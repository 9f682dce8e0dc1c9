"""A comparison as it is carried out: an evaluation of the file's rows with a run a contestant. The worker answers them,
so it goes on when the tab is closed or the server starts again, and any key of the project may look at it."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunery.dashboard.comparison import Comparison, Contestant, Plan, summarise
from tunery.dashboard.connection import Connection
from tunery.dashboard.evals.parts import EXPECTED, INPUT, PATH, may_change, num_graded
from tunery.dashboard.lines import chat_examples, few_shots
from tunery.dashboard.models import Model, models_named
from tunery.datasets.conversations import Conversation
from tunery.domain.answers import is_exact

MAX_ANSWER_TOKENS = 512
FETCHED = 100  # rows in a request
MARK = "comparison"  # in the metadata of an eval that is one
EXACT, SIMILAR = "exact", "similar"
CRITERIA = (
    {
        "type": "string_check",
        "name": EXACT,
        "operation": "eq",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.expected }}",
    },
    {
        "type": "text_similarity",
        "name": SIMILAR,
        "evaluation_metric": "fuzzy_match",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.expected }}",
        "pass_threshold": 0,  # only measured
    },
)
Json = dict[str, Any]


class Unaskable(Exception):
    """The file's rows cannot be asked; the argument is the key of the sentence that says why."""


async def start(connection: Connection, plan: Plan) -> str:
    """The id of the eval. Raises Unaskable, and what the server answers; then nothing stays."""
    examples = chat_examples((await connection.client.files.content(plan.file_id)).text, plan.max_rows)
    if not examples:
        raise Unaskable("compare.no_examples")
    tools = examples[0].tools
    if any(example.tools != tools for example in examples):
        raise Unaskable("compare.many_tools")
    shots: list[list[Json]] = []
    if plan.shots_file:
        most = max(contestant.shots for contestant in plan.contestants)
        turns = few_shots((await connection.client.files.content(plan.shots_file)).text, most + 1)
        shots = [turns[index : index + 2] for index in range(0, len(turns) - 1, 2)]
    wanted = {contestant.shots for contestant in plan.contestants}
    lines = (json.dumps({"item": _item(each, wanted, shots)}, ensure_ascii=False) for each in examples)
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")
    rows = await connection.client.files.create(file=(f"rows-{plan.filename}", content), purpose="evals")
    made: list[str] = []
    try:
        made.append((await connection.post(PATH, _eval(plan)))["id"])
        for place, contestant in enumerate(plan.contestants):
            await connection.post(f"{PATH}/{made[0]}/runs", _run(place, contestant, rows.id, tools))
    except BaseException:
        for path in made:
            await asyncio.shield(connection.delete(f"{PATH}/{path}"))
        await asyncio.shield(connection.client.files.delete(rows.id))
        raise
    return made[0]


def _item(example: Conversation, wanted: set[int], shots: Sequence[list[Json]]) -> Json:
    """The row, with what is asked for each number of examples before it."""
    asked = {_place(number): _prompt(example.messages, shots, number) for number in wanted}
    return {**asked, INPUT: example.messages, EXPECTED: example.answer_text, "line": example.line}


def _place(shots: int) -> str:
    return f"{INPUT}_{shots}" if shots else INPUT


def _prompt(messages: list[Json], shots: Sequence[list[Json]], number: int) -> list[Json]:
    """The system message stays first; the examples follow it as turns. No example is the question itself."""
    head = [message for message in messages[:1] if message["role"] == "system"]
    asked = messages[len(head) :]
    chosen = [shot for shot in shots if shot[0]["content"] != asked[-1]["content"]][:number]
    return head + [message for shot in chosen for message in shot] + asked


def _eval(plan: Plan) -> Json:
    known = {"file_id": plan.file_id, "filename": plan.filename[:512], "max_rows": str(plan.max_rows)}
    config = {"type": "custom", "item_schema": {"type": "object"}, "include_sample_schema": True}
    return {
        "name": plan.filename.rsplit(".", 1)[0][:200],
        "metadata": {MARK: "true", **known, **({"shots_file": plan.shots_file} if plan.shots_file else {})},
        "data_source_config": config,
        "testing_criteria": CRITERIA,
    }


def _run(place: int, contestant: Contestant, file_id: str, tools: list[Json] | None) -> Json:
    sampling: Json = {"temperature": 0, "max_completion_tokens": MAX_ANSWER_TOKENS}
    source = {
        "type": "completions",
        "source": {"type": "file_id", "id": file_id},
        "model": contestant.model,
        "input_messages": {"type": "item_reference", "item_reference": f"item.{_place(contestant.shots)}"},
        "sampling_params": {**sampling, **({"tools": tools} if tools else {})},
    }
    metadata = {"place": str(place), "shots": str(contestant.shots)}
    return {"name": contestant.label[:200], "data_source": source, "metadata": metadata}


# ---- looking at it


@dataclass
class Running:
    """An evaluation that is a comparison, with its runs in the order of the contestants."""

    evaluation: Json
    runs: list[Json]

    @property
    def id(self) -> str:
        return self.evaluation["id"]

    @property
    def plan(self) -> Plan:
        """Raises ValueError for an evaluation that is no comparison."""
        known = self.evaluation["metadata"] or {}
        contestants = [{"model": run["model"], "shots": int(run["metadata"].get("shots", "x"))} for run in self.runs]
        names = ("file_id", "filename", "max_rows", "shots_file")
        return Plan.model_validate({**{name: known.get(name) for name in names}, "contestants": contestants})

    @property
    def is_over(self) -> bool:
        return not any(map(may_change, self.runs))

    @property
    def is_whole(self) -> bool:
        return all(run["status"] == "completed" for run in self.runs)

    @property
    def done(self) -> int:
        return sum(num_graded(run["result_counts"]) for run in self.runs)

    @property
    def total(self) -> int:
        """0 until the first run has begun; the others have as many rows."""
        return len(self.runs) * max(run["result_counts"]["total"] for run in self.runs)

    def seconds_left(self) -> float | None:
        """By what was done since the first run began."""
        begun = [run["started_at"] for run in self.runs if run["started_at"]]
        if self.is_over or not begun or not self.done:
            return None
        return (time.time() - min(begun)) / self.done * (self.total - self.done)


async def look(connection: Connection, eval_id: str) -> Running:
    evaluation = await connection.get(f"{PATH}/{eval_id}")
    runs = (await connection.get(f"{PATH}/{eval_id}/runs", order="asc", limit=100))["data"]
    placed = [run for run in runs if "place" in run["metadata"]]
    return Running(evaluation, sorted(placed, key=lambda run: run["metadata"]["place"]))


async def cancel(connection: Connection, running: Running) -> None:
    for run in filter(may_change, running.runs):
        await connection.post(f"{PATH}/{running.id}/runs/{run['id']}/cancel")


async def result(connection: Connection, running: Running) -> Comparison:
    """Of the rows that every contestant has answered, or failed to."""
    models = await models_named(connection, [run["model"] for run in running.runs])
    answers = [await _answers(connection, running, run, models.get(run["model"])) for run in running.runs]
    comparison = Comparison(running.id, running.plan, running.evaluation["created_at"])
    for number in sorted(set.intersection(*(set(found) for found in answers))):
        item, _ = answers[0][number]
        given = [found[number][1] for found in answers]
        texts = {answer["text"].strip() for answer in given if not answer["error"]}
        comparison.rows.append(
            {
                "line": item.get("line", number + 1),
                "prompt": item.get(INPUT, []),
                "expected": item.get(EXPECTED, ""),
                "answers": given,
                "differs": len(texts) > 1 or any(answer["error"] for answer in given),
            }
        )
    comparison.rows.sort(key=lambda row: (not row["differs"], row["line"]))

    def weights(name: str) -> str:
        return models[name].answering["name"] if name in models else ""

    def currency(name: str) -> str:
        return models[name].currency if name in models else "usd"

    comparison.summary = summarise(comparison, weights, currency)
    return comparison


async def _answers(
    connection: Connection, running: Running, run: Json, model: Model | None
) -> dict[int, tuple[Json, Json]]:
    """Row and answer, by the row's number."""
    names = {each["id"]: each["name"] for each in running.evaluation["testing_criteria"]}
    found: dict[int, tuple[Json, Json]] = {}
    after, has_more = "", True
    while has_more:
        path = f"{PATH}/{running.id}/runs/{run['id']}/output_items"
        page = await connection.get(path, after=after, limit=FETCHED)
        for each in page["data"]:
            found[each["datasource_item_id"]] = (each["datasource_item"], _answer(each, names, model))
        after, has_more = page["last_id"] or "", bool(page["has_more"])
    return found


def _answer(item: Json, names: Mapping[str, str], model: Model | None) -> Json:
    sample, usage = item["sample"], item["sample"]["usage"]
    text = "".join(str(each.get("content") or "") for each in sample["output"])
    scores = {names.get(each["name"], ""): each["score"] for each in item["results"]}
    return {
        "text": text,
        "error": (sample.get("error") or {}).get("message") or "",
        "is_exact": is_exact(text, item["datasource_item"].get(EXPECTED)),
        "similarity": scores.get(SIMILAR),
        "prompt_tokens": usage["prompt_tokens"],
        "cached_tokens": usage["cached_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "cost": model.cost_of(usage["prompt_tokens"], usage["cached_tokens"], usage["completion_tokens"])
        if model
        else None,
    }
