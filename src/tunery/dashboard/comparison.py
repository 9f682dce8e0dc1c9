"""Runs a held-out file through two or three contestants. Goes on when the tab is closed; its result is a file.

The result is JSON Lines: first the summary, then a row an example. It is stored through the Files API with the purpose
`evals`, so it outlives the process and can be downloaded.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

from openai import APIError, AuthenticationError, PermissionDeniedError
from pydantic import BaseModel, Field, FiniteFloat, NonNegativeFloat, NonNegativeInt

from tunery.dashboard.connection import Connection, explain
from tunery.dashboard.lines import chat_examples, few_shots
from tunery.dashboard.models import Model
from tunery.datasets.conversations import Conversation
from tunery.domain.answers import is_exact
from tunery.domain.names import parse_name
from tunery.texts import Translator

PURPOSE = "evals"
PREFIX = "comparison-"
CONCURRENCY = 4
MAX_ANSWER_TOKENS = 512
MAX_FAILURES = 10  # rows without one answer, before one with some: then it is not the rows' fault
YEAR_2200 = 7_258_118_400
NO_ANSWER = {"text": "", "is_exact": False, "num_tokens": 0, "num_greedy_tokens": 0, "mean_logprob": 0.0}
DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


class Contestant(BaseModel, frozen=True):
    model: str
    shots: NonNegativeInt  # examples of the training file put before each question; 0 = the bare model

    @property
    def label(self) -> str:
        return f"{self.model} +{self.shots}" if self.shots else self.model

    @property
    def short_label(self) -> str:
        """For a chart's axis: of a fine-tune its suffix, else its id; of a base its name without the date."""
        name = parse_name(self.model)
        short = (name.suffix or name.id) if name else DATE.sub("", self.model)
        return f"{short} +{self.shots}" if self.shots else short


class Plan(BaseModel, frozen=True):
    file_id: str
    filename: str
    contestants: tuple[Contestant, ...] = Field(min_length=1, max_length=10)
    max_rows: NonNegativeInt
    shots_file: str | None = None  # where the few-shot examples come from


@dataclass
class Comparison:
    id: str
    plan: Plan
    created_at: float
    total: int = 0
    done: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    stored_as: str = ""  # the file's id, once finished


class NoExamples(Exception):
    """The file holds nothing to ask and to compare with."""


class Hopeless(Exception):
    """No contestant answers; the text says why."""


class Runner:
    def __init__(self, connection: Connection, models: dict[str, Model], comparison: Comparison, t: Translator) -> None:
        self.connection, self.models, self.comparison, self.t = connection, models, comparison, t
        self.gate = asyncio.Semaphore(CONCURRENCY)
        self.shots: list[list[dict[str, Any]]] = []  # each a question and its answer

    async def run(self) -> None:
        """Fills the comparison and stores its file. Raises NoExamples, Hopeless, and what the server answers; the rows
        that were answered before that stay."""
        plan, comparison = self.comparison.plan, self.comparison
        text = (await self.connection.client.files.content(plan.file_id)).text
        examples = chat_examples(text, plan.max_rows)
        if not examples:
            raise NoExamples
        if plan.shots_file:
            most = max(contestant.shots for contestant in plan.contestants)
            turns = few_shots((await self.connection.client.files.content(plan.shots_file)).text, most + 1)
            self.shots = [turns[index : index + 2] for index in range(0, len(turns) - 1, 2)]
        comparison.total = len(examples)
        async with asyncio.TaskGroup() as rows:
            for example in examples:
                rows.create_task(self._row(example))
        comparison.rows.sort(key=lambda row: (not row["differs"], row["line"]))
        comparison.summary = [self._summary(index) for index in range(len(plan.contestants))]
        comparison.stored_as = await self._store()

    async def _row(self, example: Conversation) -> None:
        async with self.gate:
            answers = [await self._answer(contestant, example) for contestant in self.comparison.plan.contestants]
        self.comparison.done += 1
        texts = {answer["text"].strip() for answer in answers if not answer["error"]}
        self.comparison.rows.append(
            {
                "line": example.line,
                "prompt": example.messages,
                "expected": example.answer_text,
                "answers": answers,
                "differs": len(texts) > 1 or any(answer["error"] for answer in answers),
            }
        )
        errors = [answer["error"] for row in self.comparison.rows for answer in row["answers"]]
        if all(errors) and len(self.comparison.rows) >= MAX_FAILURES:
            raise Hopeless(errors[-1])

    async def _answer(self, contestant: Contestant, example: Conversation) -> dict[str, Any]:
        """One that fails is an answer too: the row goes on with the other contestants. When the key may no longer ask,
        the comparison ends."""
        try:
            return await self._ask(contestant, example)
        except (AuthenticationError, PermissionDeniedError):
            raise
        except APIError as error:
            return NO_ANSWER | {"error": explain(error, self.t)}

    async def _ask(self, contestant: Contestant, example: Conversation) -> dict[str, Any]:
        prompt = self._prompt(contestant, example.messages)
        tools: dict[str, Any] = {"tools": example.tools} if example.tools else {}
        request: dict[str, Any] = {"model": contestant.model, "messages": prompt, **tools}
        started = time.perf_counter()
        completion = await self.connection.client.chat.completions.create(
            temperature=0, max_completion_tokens=MAX_ANSWER_TOKENS, **request
        )
        took = time.perf_counter() - started
        expected = {"role": "assistant", "content": example.answer_text}
        scored = {"model": contestant.model, "messages": [*prompt, expected], **tools}
        score = await self.connection.post("/tunery/v1/scores", scored)
        text, usage = completion.choices[0].message.content or "", completion.usage
        cached = (usage and usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
        return {
            "text": text,
            "error": "",
            "is_exact": is_exact(text, example.answer_text),
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "cached_tokens": cached,
            "completion_tokens": usage.completion_tokens if usage else 0,
            "seconds": took,
            "cost": self.models[contestant.model].cost(usage) if usage else None,
            "num_tokens": score["num_tokens"],
            "num_greedy_tokens": score["num_greedy_tokens"],
            "mean_logprob": score["mean_logprob"],
        }

    def _prompt(self, contestant: Contestant, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The system message stays first; the examples follow it as turns. No example is the question itself."""
        head = [message for message in messages[:1] if message["role"] == "system"]
        asked = messages[len(head) :]
        shots = [shot for shot in self.shots if shot[0]["content"] != asked[-1]["content"]][: contestant.shots]
        return head + [message for shot in shots for message in shot] + asked

    def _summary(self, index: int) -> dict[str, Any]:
        """Over the rows that this contestant answered."""
        every = [row["answers"][index] for row in self.comparison.rows]
        answers = [answer for answer in every if not answer["error"]]
        count, tokens = max(1, len(answers)), sum(answer["num_tokens"] for answer in answers)

        def mean(name: str) -> float:
            return sum(answer[name] or 0 for answer in answers) / count

        contestant = self.comparison.plan.contestants[index]
        return {
            "label": contestant.label,
            "model": contestant.model,
            "weights": self.models[contestant.model].answering["name"],
            "shots": contestant.shots,
            "num_errors": len(every) - len(answers),
            "exact": mean("is_exact"),
            "token_accuracy": sum(answer["num_greedy_tokens"] for answer in answers) / max(1, tokens),
            "mean_logprob": sum(a["mean_logprob"] * a["num_tokens"] for a in answers) / max(1, tokens),
            "prompt_tokens": mean("prompt_tokens"),
            "cached_tokens": mean("cached_tokens"),
            "completion_tokens": mean("completion_tokens"),
            "seconds": mean("seconds"),
            "cost": mean("cost"),
            "currency": self.models[contestant.model].currency,
        }

    async def _store(self) -> str:
        plan = self.comparison.plan
        head = {"plan": plan.model_dump(), "created_at": self.comparison.created_at, "summary": self.comparison.summary}
        lines = [json.dumps(item, ensure_ascii=False) for item in (head, *self.comparison.rows)]
        name = f"{PREFIX}{plan.filename.rsplit('.', 1)[0]}.jsonl"
        content = ("\n".join(lines) + "\n").encode()
        return (await self.connection.client.files.create(file=(name, content), purpose=PURPOSE)).id


# A comparison's file. Anyone may upload a file of this name and purpose, so all that is read is checked.


class _Summary(BaseModel):
    label: str
    model: str
    weights: str = ""  # not told by those of earlier versions
    shots: NonNegativeInt
    num_errors: NonNegativeInt = 0
    exact: NonNegativeFloat
    token_accuracy: NonNegativeFloat
    mean_logprob: FiniteFloat
    prompt_tokens: NonNegativeFloat
    cached_tokens: NonNegativeFloat
    completion_tokens: NonNegativeFloat
    seconds: NonNegativeFloat
    cost: NonNegativeFloat
    currency: str


class _Head(BaseModel):
    plan: Plan
    created_at: float = Field(ge=0, lt=YEAR_2200)
    summary: list[_Summary]


class _Answer(BaseModel):
    text: str
    error: str = ""
    is_exact: bool = False


class _Row(BaseModel):
    line: NonNegativeInt
    prompt: list[dict[str, Any]]
    expected: str
    answers: list[_Answer]
    differs: bool


def read_result(file_id: str, text: str) -> Comparison:
    """A comparison from its file. Raises ValueError when the file is something else."""
    try:
        head, *lines = [line for line in text.split("\n") if line.strip()]
        stored = _Head.model_validate_json(head)
        rows = [_Row.model_validate_json(line) for line in lines]
    except ValueError as exc:
        raise ValueError(f"{file_id} is not a comparison") from exc
    count = len(stored.plan.contestants)
    if len(stored.summary) not in (0, count) or any(len(row.answers) != count for row in rows):
        raise ValueError(f"{file_id} is not a whole comparison")
    found = Comparison(file_id, stored.plan, stored.created_at)
    found.summary = [item.model_dump() for item in stored.summary]
    found.rows, found.stored_as = [row.model_dump() for row in rows], file_id
    found.total = found.done = len(rows)
    return found
