"""Prompt or data? The base with the best prompt that the training file itself offers, against the tuned model, on rows
that neither has seen.

The prompts: the row's own instructions, with more and more rows of the training file as examples, one of each label
where the answers are labels; and the labels spelt out. The best of them is chosen on the very rows that are told of,
which is in the base's favour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunery.chat.examples import Message
from tunery.datasets.answers import said
from tunery.domain.answers import is_exact, normalise
from tunery.domain.errors import InvalidRequest
from tunery.domain.intervals import Interval, bootstrap
from tunery.improve.asking import Answer, Row, ask_all, readable_rows
from tunery.improve.jobs import WHOLE, Part, Subject, ended, make_whole, points_of, rows_of
from tunery.texts import say

MOST_LABELS = 24  # different answers, up to which they are labels
ROWS_A_LABEL = 4  # at least so many rows a label, on average
FEW = 4  # examples, where the answers are no labels
MOST_ROWS = 200  # that are asked: enough for an interval of a few points
ANSWER_TOKENS = 32


@dataclass(frozen=True)
class Way:
    """A model and how it is asked."""

    name: str
    correct: Interval  # 0..1: the share of exact answers
    prompt_tokens: float  # a row


@dataclass(frozen=True)
class PromptOrData:
    base: list[Way]  # the best first
    tuned: Way
    difference: Interval  # tuned minus the best prompt, paired by row
    num_rows: int


def plan(subject: Subject) -> list[Part]:
    """The job on some of its rows, where it was not measured on others. Raises InvalidRequest where answers are not
    right or wrong."""
    if subject.recipe["method"]["type"] != "supervised" or not labels_of(readable_rows(subject.rows)):
        raise InvalidRequest(say("improve.no_labels", most=MOST_LABELS, rows=ROWS_A_LABEL))
    return [] if subject.job.validation_file else [Part(WHOLE)]


def num_tokens(subject: Subject) -> int:
    """Of the questions that `read` asks, about: each of the base's ways twice, and the tuned model's."""
    a_row = 1 + sum(2 * (1 + num_shots) for num_shots in (0, FEW, len(labels_of(readable_rows(subject.rows)))))
    return round(min(MOST_ROWS, subject.num_held_back) * a_row * subject.tokens_a_row)


def start(subject: Subject) -> list[str]:
    return [make_whole(subject).id]


def read(subject: Subject, job_ids: Sequence[str]) -> PromptOrData:
    """Asks the models. `job_ids`: as `start` named it; it has ended."""
    whole = ended(subject.server, job_ids)[-1]
    shown = readable_rows(rows_of(subject.server, whole.training_file))
    asked = readable_rows(rows_of(subject.server, whole.validation_file or ""))[:MOST_ROWS]
    tuned = points_of(subject.server, whole)[-1].model
    client, found = subject.server.client, []
    for name, of_way in prompts(shown, asked).items():
        answers = ask_all(client, subject.job.model, of_way, ANSWER_TOKENS)
        found.append((_right(answers, asked), _way(name, answers, asked)))
    found.sort(key=lambda pair: -pair[1].correct.mean)
    answers = ask_all(client, tuned, [row.messages for row in asked], ANSWER_TOKENS)
    difference = bootstrap(_right(answers, asked) - found[0][0])
    return PromptOrData([way for _, way in found], _way(say("improve.tuned"), answers, asked), difference, len(asked))


def labels_of(rows: Sequence[Row]) -> list[str]:
    """The different answers, if they are few and come again; else none."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(normalise(said(row.answer)), said(row.answer))
    return list(first.values()) if len(first) <= min(MOST_LABELS, len(rows) / ROWS_A_LABEL) else []


def prompts(shown: Sequence[Row], asked: Sequence[Row]) -> dict[str, list[list[Message]]]:
    """By the way's name, a prompt for each row of `asked`. The examples are of `shown`."""
    labels = labels_of(shown)
    by_label = [next(row for row in shown if is_exact(said(row.answer), label)) for label in labels]
    spelt = f"Answer with one of these and nothing else: {', '.join(labels)}."
    shots: list[tuple[str, list[Row]]] = [
        (say("improve.base"), []),
        (say("improve.base_shots", n=FEW), list(shown[:FEW])),
        (say("improve.base_of_each"), by_label),
    ]
    return {
        way: [_prompt(row, rows, said_so) for row in asked]
        for name, rows in shots
        for way, said_so in ((name, ""), (say("improve.spelt", way=name), spelt))
    }


def _prompt(row: Row, shots: Sequence[Row], also: str) -> list[Message]:
    """The instructions stay first, and the examples follow as turns. No example is the question itself."""
    head = [message for message in row.messages[:1] if message["role"] in ("system", "developer")]
    asked = row.messages[len(head) :]
    if also:
        head = [{"role": "system", "content": "\n".join(filter(None, [*map(said, head), also]))}]
    turns = [
        message
        for shot in shots
        if shot.messages[-1]["content"] != asked[-1]["content"]
        for message in (shot.messages[-1], shot.answer)
    ]
    return [*head, *turns, *asked]


def _right(answers: Sequence[Answer], asked: Sequence[Row]) -> np.ndarray:
    """[rows] of 0 and 1."""
    return np.array([float(is_exact(one.text, said(row.answer))) for one, row in zip(answers, asked, strict=True)])


def _way(name: str, answers: Sequence[Answer], asked: Sequence[Row]) -> Way:
    tokens = sum(answer.prompt_tokens for answer in answers) / len(answers)
    return Way(name, bootstrap(_right(answers, asked)), tokens)
