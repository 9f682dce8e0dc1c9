"""Asks base and tuned model the same questions: the answers, and the prompt tokens that each way costs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tunery.cli.output import styled
from tunery.cli.tasks import Message, Question, Task
from tunery.domain.answers import is_exact
from tunery.improve.asking import Answer, ask_all

if TYPE_CHECKING:
    from openai import OpenAI

TABLE_WIDTH = 100


@dataclass(frozen=True)
class Score:
    way: str
    correct: int
    asked: int
    prompt_tokens: int

    @property
    def percent(self) -> float:
        return 100 * self.correct / self.asked


def ask_task(client: "OpenAI", model: str, task: Task, prompt: Callable[[Question], list[Message]]) -> list[Answer]:
    """The most likely answers, in the order of the questions."""
    return ask_all(client, model, [prompt(question) for question in task.questions], task.max_tokens)


def score(way: str, task: Task, answers: list[Answer]) -> Score:
    """Where no capital and no closing stop makes a label wrong: that would flatter the tuned model."""
    correct = sum(
        is_exact(answer.text, question.expected) for question, answer in zip(task.questions, answers, strict=True)
    )
    return Score(way, correct, len(answers), sum(answer.prompt_tokens for answer in answers))


def side_by_side(task: Task, base: list[Answer], tuned: list[Answer]) -> RenderableType:
    found = Table(title="Questions that are not in the file", title_justify="left", show_lines=True, width=TABLE_WIDTH)
    for column in ("question", "base model, few-shot", "tuned model, zero-shot"):
        found.add_column(column, ratio=1)
    for question, before, after in zip(task.questions, base, tuned, strict=True):
        found.add_row(question.text, _cell(before), _cell(after))
    return found


def _cell(answer: Answer) -> Text:
    return styled("{}\n[dim]{} prompt tokens[/dim]", answer.text, answer.prompt_tokens)


def score_table(scores: list[Score]) -> RenderableType:
    found = Table(title=f"{scores[0].asked} held-out rows", title_justify="left")
    found.add_column("")
    found.add_column("exact match", justify="right")
    found.add_column("prompt tokens a row", justify="right")
    for item in scores:
        tokens = item.prompt_tokens / item.asked
        found.add_row(item.way, f"{item.percent:.0f} %  ({item.correct} of {item.asked})", f"{tokens:.0f}")
    return found


def saving(few_shot_tokens: int, zero_shot_tokens: int) -> str:
    share = 100 * (1 - zero_shot_tokens / few_shot_tokens)
    return (
        f"Prompt tokens: {few_shot_tokens:,} few-shot, {zero_shot_tokens:,} tuned: {share:.0f} % saved on every call."
    )
