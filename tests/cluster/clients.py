"""Clients of one project in a process of their own: `python -m tests.cluster.clients URL KEY NAME CLIENTS PAUSE`.

Each asks one question after the other through the official SDK, PAUSE seconds after the last answer, of the base and of
the project's tuned models as these appear, until standard input ends. Then they print a `Told` as JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from openai import APIError, AsyncOpenAI, DefaultAsyncHttpxClient

T = TypeVar("T")

TOKENS = 16
ASKED = "question-"  # how the ids of all that they ask begin
TRIES = 20  # of a stream that broke off, which the SDK leaves to its user
LOOK_EVERY_S = 1.0


@dataclass
class Told:
    """What came of all that was asked."""

    answers: list[tuple[float, float]] = field(default_factory=list)  # time.monotonic() at the end, seconds it took
    by_model: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0
    retries: int = 0  # by the SDK, unseen by its user
    asked_again: int = 0  # streams that broke off
    unanswered: list[str] = field(default_factory=list)


class Clients:
    def __init__(self, url: str, key: str, name: str, pause_s: float) -> None:
        self._name, self._number, self._told, self._pause_s = name, 0, Told(), pause_s
        http = DefaultAsyncHttpxClient(event_hooks={"request": [self._see]})
        self._client = AsyncOpenAI(base_url=url, api_key=key, http_client=http)
        self._models: list[str] = []
        self._is_over = False

    async def _see(self, request: Any) -> None:
        self._told.retries += request.headers.get("x-stainless-retry-count", "0") != "0"

    async def run(self, number: int) -> Told:
        looking = asyncio.create_task(self._look())
        ending = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        sys.stdout.write("asking\n")
        sys.stdout.flush()
        asking = [asyncio.create_task(self._ask_on()) for _ in range(number)]
        await ending
        self._is_over = True
        await asyncio.gather(*asking)
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking  # had it failed, models that came later were not asked
        await self._client.close()
        return self._told

    async def _look(self) -> None:
        while True:
            self._models = sorted([each.id async for each in self._client.models.list() if each.id.startswith("ft:")])
            await asyncio.sleep(LOOK_EVERY_S)

    async def _ask_on(self) -> None:
        while not self._is_over:
            self._number += 1
            model = ["gpt-4o-mini", *self._models][self._number % (1 + len(self._models))]
            await self._ask(self._number, model)
            await asyncio.sleep(self._pause_s)

    async def _ask(self, number: int, model: str) -> None:
        """Until there is an answer. Every attempt at one question has the same id, so that it is charged once."""
        sent = {"model": model, "extra_headers": {"Idempotency-Key": f"{ASKED}{self._name}-{number}"}}
        ask = (self._chat, self._chat_stream, self._response, self._response_stream)[number // 3 % 4]
        problem: Exception | None = None
        started_at = time.monotonic()
        for _ in range(TRIES):
            try:
                tokens_in, tokens_out = await ask(f"Question {number % 97}: what comes next?", sent)
            except BrokenOff as exc:
                problem, self._told.asked_again = exc, self._told.asked_again + 1
            except (APIError, NoAnswer) as exc:
                problem = exc
                break
            else:
                self._told.answers.append((now := time.monotonic(), now - started_at))
                self._told.by_model[model] += 1
                self._told.input_tokens += tokens_in
                self._told.output_tokens += tokens_out
                return
        self._told.unanswered.append(f"{number} ({ask.__name__}, {model}): {problem!r}")

    async def _chat(self, text: str, sent: dict[str, Any]) -> tuple[int, int]:
        answer = await self._client.chat.completions.create(**sent, messages=_messages(text), max_tokens=TOKENS)
        if answer.usage is None:
            raise NoAnswer(answer.to_json())
        return answer.usage.prompt_tokens, answer.usage.completion_tokens

    async def _chat_stream(self, text: str, sent: dict[str, Any]) -> tuple[int, int]:
        usage = {"include_usage": True}
        asked = {**sent, "messages": _messages(text), "max_tokens": TOKENS, "stream_options": usage}
        chunks = await _read(await self._client.chat.completions.create(**asked, stream=True))
        if not chunks or chunks[-1].usage is None:
            raise BrokenOff("the stream ended before its usage")
        return chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens

    async def _response(self, text: str, sent: dict[str, Any]) -> tuple[int, int]:
        answer = await self._client.responses.create(**sent, input=text, max_output_tokens=TOKENS)
        if answer.usage is None:
            raise NoAnswer(answer.to_json())
        return answer.usage.input_tokens, answer.usage.output_tokens

    async def _response_stream(self, text: str, sent: dict[str, Any]) -> tuple[int, int]:
        asked = {**sent, "input": text, "max_output_tokens": TOKENS}
        events: list[Any] = await _read(await self._client.responses.create(**asked, stream=True))
        last = getattr(events[-1], "response", None) if events else None
        if last is None or last.usage is None:
            raise BrokenOff(f"the stream ended with {events[-1:]}")
        return last.usage.input_tokens, last.usage.output_tokens


class NoAnswer(Exception):
    """A success by its status that holds none."""


class BrokenOff(Exception):
    """A stream that had begun, which the SDK does not ask for again."""


async def _read(stream: AsyncIterable[T]) -> list[T]:
    try:
        return [each async for each in stream]
    except Exception as exc:  # whatever the SDK's HTTP library calls it
        raise BrokenOff(repr(exc)) from exc


def _messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def main(url: str, key: str, name: str, number: str, pause_s: str) -> None:
    told = asyncio.run(Clients(url, key, name, float(pause_s)).run(int(number)))
    sys.stdout.write(json.dumps(vars(told)))


if __name__ == "__main__":
    main(*sys.argv[1:])
