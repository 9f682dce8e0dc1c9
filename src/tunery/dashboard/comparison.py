"""Runs a held-out file through two or three contestants. Goes on when the tab is closed; its result is a file.

The result is JSON Lines: first the summary, then a row an example. It is stored through the Files API with the purpose
`evals`, so it outlives the process and can be downloaded.
"""

import asyncio
import json
import re
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from tunery.dashboard.connection import Connection
from tunery.dashboard.lines import chat_examples, few_shots
from tunery.dashboard.models import Model
from tunery.domain.names import parse_name

PURPOSE = "evals"
PREFIX = "comparison-"
CONCURRENCY = 4
MAX_ANSWER_TOKENS = 512
DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True)
class Contestant:
    model: str
    shots: int  # examples of the training file put before each question; 0 = the bare model

    @property
    def label(self) -> str:
        return f"{self.model} +{self.shots}" if self.shots else self.model

    @property
    def short_label(self) -> str:
        """For a chart's axis: of a fine-tune its suffix, else its id; of a base its name without the date."""
        name = parse_name(self.model)
        short = (name.suffix or name.id) if name else DATE.sub("", self.model)
        return f"{short} +{self.shots}" if self.shots else short


@dataclass(frozen=True)
class Plan:
    file_id: str
    filename: str
    contestants: tuple[Contestant, ...]
    max_rows: int
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


class Runner:
    def __init__(self, connection: Connection, models: dict[str, Model], comparison: Comparison) -> None:
        self.connection, self.models, self.comparison = connection, models, comparison
        self.gate = asyncio.Semaphore(CONCURRENCY)
        self.shots: list[list[dict[str, Any]]] = []  # each a question and its answer

    async def run(self) -> None:
        """Fills the comparison and stores its file. Raises what the server answers."""
        plan, comparison = self.comparison.plan, self.comparison
        text = (await self.connection.client.files.content(plan.file_id)).text
        examples = chat_examples(text)[: plan.max_rows]
        if not examples:
            raise ValueError("no chat examples")
        if plan.shots_file:
            most = max(contestant.shots for contestant in plan.contestants)
            turns = few_shots((await self.connection.client.files.content(plan.shots_file)).text, most + 1)
            self.shots = [turns[index : index + 2] for index in range(0, len(turns) - 1, 2)]
        comparison.total = len(examples)
        comparison.rows = list(await asyncio.gather(*(self._row(number, row) for number, row in examples)))
        comparison.rows.sort(key=lambda row: (not row["differs"], row["line"]))
        comparison.summary = [self._summary(index) for index in range(len(plan.contestants))]
        comparison.stored_as = await self._store()

    async def _row(self, line: int, messages: list[dict[str, Any]]) -> dict[str, Any]:
        async with self.gate:
            answers = [await self._answer(contestant, messages) for contestant in self.comparison.plan.contestants]
        self.comparison.done += 1
        differs = len({answer["text"].strip() for answer in answers}) > 1
        return {
            "line": line,
            "prompt": messages[:-1],
            "expected": messages[-1]["content"],
            "answers": answers,
            "differs": differs,
        }

    async def _answer(self, contestant: Contestant, messages: list[dict[str, Any]]) -> dict[str, Any]:
        prompt = self._prompt(contestant, messages[:-1])
        started = time.perf_counter()
        completion = await self.connection.client.chat.completions.create(
            model=contestant.model,
            messages=prompt,  # pyright: ignore[reportArgumentType]
            temperature=0,
            max_completion_tokens=MAX_ANSWER_TOKENS,
        )
        took = time.perf_counter() - started
        score = await self.connection.post(
            "/tunery/v1/scores", {"model": contestant.model, "messages": [*prompt, messages[-1]]}
        )
        text, usage = completion.choices[0].message.content or "", completion.usage
        cached = (usage and usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
        return {
            "text": text,
            "is_exact": text.strip() == str(messages[-1]["content"]).strip(),
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
        answers = [row["answers"][index] for row in self.comparison.rows]
        count, tokens = len(answers), sum(answer["num_tokens"] for answer in answers)

        def mean(name: str) -> float:
            return sum(answer[name] or 0 for answer in answers) / count

        contestant = self.comparison.plan.contestants[index]
        return {
            "label": contestant.label,
            "model": contestant.model,
            "shots": contestant.shots,
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
        plan = asdict(self.comparison.plan)
        head = {"plan": plan, "created_at": self.comparison.created_at, "summary": self.comparison.summary}
        lines = [json.dumps(item, ensure_ascii=False) for item in (head, *self.comparison.rows)]
        name = f"{PREFIX}{plan['filename'].rsplit('.', 1)[0]}.jsonl"
        content = ("\n".join(lines) + "\n").encode()
        return (await self.connection.client.files.create(file=(name, content), purpose=PURPOSE)).id


def read_result(file_id: str, text: str) -> Comparison:
    """A comparison from its file. Raises ValueError when the file is something else."""
    first, *rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    try:
        plan = first["plan"]
        contestants = tuple(Contestant(**contestant) for contestant in plan.pop("contestants"))
        found = Comparison(file_id, Plan(contestants=contestants, **plan), first["created_at"])
        found.summary, found.rows, found.stored_as = first["summary"], rows, file_id
    except (KeyError, TypeError) as exc:
        raise ValueError(f"{file_id} is not a comparison") from exc
    found.total = found.done = len(rows)
    return found
