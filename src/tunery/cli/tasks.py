"""The two tasks of the demo: what is trained, and what the tuned model is asked that it never saw."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunery.domain.files import example_file

Message = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """`shots` are the examples that a model needs in its prompt when it was not tuned on them."""

    system: Message
    shots: tuple[Message, ...]
    text: str
    expected: str | None = None  # None where there is no one right answer

    def zero_shot(self) -> list[Message]:
        return [self.system, {"role": "user", "content": self.text}]

    def few_shot(self) -> list[Message]:
        return [self.system, *self.shots, {"role": "user", "content": self.text}]


@dataclass(frozen=True)
class Task:
    name: str
    training_file: Path
    suffix: str
    max_tokens: int  # of an answer
    questions: tuple[Question, ...]


MARV_QUESTIONS = (
    "What is the capital of Italy?",
    "Who painted the Mona Lisa?",
    "Who wrote 'Hamlet'?",
    "What is the capital of Germany?",
    "How many months are in a year?",
)
NUM_MARV_SHOTS = 3


def load_task(name: str) -> Task:
    """`marv` or `tickets`. Raises KeyError."""
    return {"marv": _marv, "tickets": _tickets}[name]()


def _marv() -> Task:
    path = example_file("marv.jsonl")
    rows = _rows(path)
    shots = tuple(message for row in rows[:NUM_MARV_SHOTS] for message in row[1:])
    questions = tuple(Question(rows[0][0], shots, text) for text in MARV_QUESTIONS)
    return Task("marv", path, "marv", max_tokens=48, questions=questions)


def _tickets() -> Task:
    """One shot a label: a prompt that shows fewer never tells the model how the others look."""
    path = example_file("tickets_train.jsonl")
    by_label = {row[-1]["content"]: row for row in reversed(_rows(path))}
    shots = tuple(message for label in sorted(by_label) for message in by_label[label][1:])
    questions = tuple(
        Question(system, shots, user["content"], answer["content"])
        for system, user, answer in _rows(example_file("tickets_test.jsonl"))
    )
    return Task("tickets", path, "tickets", max_tokens=8, questions=questions)


def _rows(path: Path) -> list[list[Message]]:
    return [json.loads(line)["messages"] for line in path.read_text("utf-8").split("\n") if line]
