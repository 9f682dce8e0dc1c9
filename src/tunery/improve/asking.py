"""Questions put to models, several at once: what they answer, and how likely they find an answer that is given."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import exp
from typing import TYPE_CHECKING, Any, TypeVar

from tunery.chat.examples import Example, Message, PreferenceExample, Tool
from tunery.datasets.conversations import as_conversation
from tunery.datasets.lines import Line
from tunery.datasets.parse import readable_example
from tunery.datasets.problems import Problem
from tunery.domain.usage import MICRO
from tunery.improve.jobs import Price, Server, Subject

if TYPE_CHECKING:
    from openai import OpenAI

AT_ONCE = 8  # the engine computes them in one batch
NUM_ASKED = AT_ONCE + 1  # questions, to know how long one takes
UNEVEN = (0.5, 2.0)  # how long many rows may take against so many times the first few

Asked = TypeVar("Asked")
Given = TypeVar("Given")


@dataclass(frozen=True)
class Row:
    """An example as a model is asked it."""

    line: int
    messages: list[Message]
    answer: Message
    tools: list[Tool] | None
    worse: Message | None  # of a preference pair

    @classmethod
    def of(cls, example: Example) -> "Row | None":
        asked = as_conversation(example)
        if asked.answer is None or not asked.messages:
            return None
        worse = example.non_preferred if isinstance(example, PreferenceExample) else None
        return cls(asked.line, asked.messages, asked.answer, asked.tools, worse)


@dataclass(frozen=True)
class Answer:
    text: str
    prompt_tokens: int


@dataclass(frozen=True)
class Likelihood:
    logprob: float  # of all tokens together
    num_tokens: int  # the end of the turn included

    @property
    def mean(self) -> float:
        return self.logprob / self.num_tokens

    @property
    def probability(self) -> float:
        return exp(self.logprob)


def examples_of(lines: Iterable[Line]) -> list[Example]:
    read = (readable_example(line) for line in lines)
    return [example for example in read if not isinstance(example, Problem)]


def readable_rows(lines: Iterable[Line]) -> list[Row]:
    """Those that a model can be asked."""
    return [row for example in examples_of(lines) if (row := Row.of(example)) is not None]


def in_parallel(act: Callable[[Asked], Given], items: Iterable[Asked]) -> list[Given]:
    """In the order of the items. The first error ends it."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        return list(pool.map(act, items))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for answers that are under way


def ask_all(client: "OpenAI", model: str, prompts: Sequence[list[Message]], max_tokens: int) -> list[Answer]:
    """The most likely answers, in the order of the prompts."""

    def ask(prompt: list[Message]) -> Answer:
        completion = client.chat.completions.create(
            model=model,
            messages=prompt,  # type: ignore[arg-type]
            temperature=0,
            max_completion_tokens=max_tokens,
        )
        assert completion.usage is not None
        return Answer((completion.choices[0].message.content or "").strip(), completion.usage.prompt_tokens)

    return in_parallel(ask, prompts)


def likelihood(server: Server, model: str, row: Row, answer: Message | None = None) -> Likelihood:
    """Of the row's answer, or of another to its question."""
    body: dict[str, Any] = {"model": model, "messages": [*row.messages, answer or row.answer]}
    score = server.post("/scores", body | ({"tools": row.tools} if row.tools else {}))
    return Likelihood(score["mean_logprob"] * score["num_tokens"], score["num_tokens"])


def price_of_asking(subject: Subject, num_tokens: int, pace: Callable[[], float] | None) -> Price:
    """Of so many prompt tokens, at `pace` seconds each; no time where that is not known."""
    if not num_tokens:
        return Price(0.0, subject.estimate["currency"], 0.0, 0.0)
    model = subject.job.fine_tuned_model or subject.job.model
    entries = subject.server.get("/catalog")["data"]
    price = next(entry["price"] for entry in entries if model in (entry["name"], *entry["aliases"]))
    low, high = (uneven * num_tokens * pace() if pace else 0.0 for uneven in UNEVEN)
    return Price(price["input"] * num_tokens / MICRO, price["currency"], low, high)


def price_of_pace(subject: Subject) -> Price:
    """Of what `seconds_a_token` asks."""
    return price_of_asking(subject, round(subject.tokens_a_row * NUM_ASKED), None)


def seconds_a_token(subject: Subject) -> float:
    """Of a prompt: that of the first few rows, which are asked for it, the first of them twice."""
    some = readable_rows(subject.rows)[:AT_ONCE]
    ask = partial(likelihood, subject.server, subject.job.fine_tuned_model or subject.job.model)
    if some:
        ask(some[0])  # the first question may load the model
    begun = time.monotonic()
    in_parallel(ask, some)
    return (time.monotonic() - begun) / (subject.tokens_a_row * max(1, len(some)))
