"""Brings the engine's outputs into the event loop, from whatever thread, to the request they belong to."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from math import inf

from tunery.domain.errors import InvalidRequest, ServerFault, Unavailable
from tunery.serving.requests import Backend, Generation, Output
from tunery.texts import say

# What one request may ask for, over all its answers: minutes of the engine's time, which others share meanwhile.
MAX_ANSWER_TOKENS = 1 << 18
MAX_CANDIDATES = 1 << 20  # log-probabilities that an answer holds, some hundred bytes each
MANY = 64  # outputs of a sequence that wait: they take more memory than what they say


class Load:
    """How many requests run, and for how long there has been none."""

    def __init__(self) -> None:
        self.num_running = 0
        self._ended_at = time.monotonic()  # the last one

    @property
    def idle_s(self) -> float:
        return time.monotonic() - self._ended_at

    @contextmanager
    def request(self) -> Iterator[None]:
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1
            self._ended_at = time.monotonic()


class _Inbox:
    """Outputs of one request that nobody has taken yet.

    They wait for each other up to `every_s`, but the first and those that end a sequence: whoever takes a token at a
    time takes the processor from the engine each time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, every_s: float) -> None:
        self._loop, self._every_s = loop, every_s
        self._waiting: dict[str, list[Output]] = {}
        self._is_due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._due_at = inf if every_s == inf else -inf

    def put(self, output: Output) -> None:
        outputs = self._waiting.setdefault(output.id, [])
        outputs.append(output)
        if len(outputs) == MANY and output.error is None:
            outputs[:] = [_joined(outputs)]
        if output.finish_reason is not None or self._due_at <= self._loop.time():
            self._is_due.set()
        elif self._timer is None and self._due_at < inf:
            self._timer = self._loop.call_at(self._due_at, self._is_due.set)

    async def take(self) -> list[Output]:
        """One for each sequence that got on; then the errors."""
        await self._is_due.wait()
        self._is_due.clear()
        self.close()
        self._due_at = self._loop.time() + self._every_s
        taken, self._waiting = self._waiting, {}
        told = [[output for output in outputs if output.error is None] for outputs in taken.values()]
        errors = [output for outputs in taken.values() for output in outputs if output.error is not None]
        return [*(_joined(outputs) for outputs in told if outputs), *errors]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _joined(outputs: list[Output]) -> Output:
    """What a sequence's consecutive steps came to together."""
    return replace(
        outputs[-1],
        text="".join(output.text for output in outputs),
        logprobs=tuple(chain.from_iterable(output.logprobs for output in outputs)),
        offsets=tuple(chain.from_iterable(output.offsets for output in outputs)),
        prompt_logprobs=next(
            (output.prompt_logprobs for output in reversed(outputs) if output.prompt_logprobs is not None), None
        ),
    )


class Broker:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.load = Load()  # of all that this process is asked, embeddings too
        self._loop = loop
        self._inboxes: dict[str, _Inbox] = {}
        self._running: dict[str, set[str]] = {}  # by request, its sequences that have not ended

    def sink(self, outputs: list[Output]) -> None:
        """In the engine's thread: one wake-up of the loop for all outputs of a step."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, outputs)

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            inbox = self._inboxes.get(output.id)
            if inbox is not None:
                inbox.put(output)

    async def run(self, engine: Backend, generations: list[Generation], every_s: float = inf) -> AsyncIterator[Output]:
        """Outputs of all generations until each has finished: of each in one what came within `every_s`, or until one
        ended.

        Whoever stops listening, because its client has gone, aborts what still runs. `abort` instead has each sequence
        end with an output that says what it came to. Raises Unavailable when the engine has died, and the error that
        it gave up on a sequence with: InvalidRequest for what only the engine could see.
        """
        if not engine.is_alive:
            raise engine_down()
        inbox = _Inbox(self._loop, every_s)
        open_ids = {generation.id for generation in generations}
        self._inboxes.update(dict.fromkeys(open_ids, inbox))
        request_id = generations[0].request_id
        self._running[request_id] = open_ids
        try:
            with self.load.request():
                engine.submit(generations)
                while open_ids:
                    for output in await inbox.take():
                        if output.error is not None:
                            has_died = isinstance(output.error, ServerFault) and not engine.is_alive
                            raise engine_down() if has_died else output.error
                        if output.finish_reason is not None:
                            open_ids.discard(output.id)
                        yield output
        finally:
            inbox.close()
            for generation in generations:
                self._inboxes.pop(generation.id, None)
            self._running.pop(request_id, None)
            if open_ids:
                engine.abort(list(open_ids))

    def abort(self, engine: Backend, request_id: str) -> bool:
        """End a request early: its answer comes now, as far as it is. False when no such request runs."""
        open_ids = self._running.get(request_id)
        if open_ids:
            engine.abort(list(open_ids), report=True)
        return open_ids is not None


def engine_down() -> Unavailable:
    return Unavailable(say("error.engine_down"), code="server_is_overloaded", headers={"Retry-After": "2"})


def check_length(
    num_prompt: int,
    max_tokens: int | None,
    context_length: int,
    *,
    param: str,
    num_answers: int = 1,
    num_top: int | None = None,
) -> int:
    """How many tokens of each answer may be drawn: as many as were asked for, cut to what the prompt leaves of the
    context.

    Clients ask for what the model's name allows at OpenAI, where contexts are longer. Raises InvalidRequest
    `context_length_exceeded`, in OpenAI's words, for a prompt that leaves nothing, and for more answers of such a
    length, or more of their log-probabilities, than one request may have computed.
    """
    if num_prompt >= context_length:
        raise InvalidRequest(
            say("error.context_length", limit=context_length, param=param, num_tokens=num_prompt),
            param=param,
            code="context_length_exceeded",
        )
    room = context_length - num_prompt
    most = MAX_ANSWER_TOKENS // num_answers
    if num_top is not None:
        most = min(most, MAX_CANDIDATES // (num_answers * (1 + num_top)))
    if max_tokens is None:
        return max(1, min(room, most))
    if min(max_tokens, room) > most:
        scored = "" if num_top is None else say("error.answers_too_long.logprobs", num_top=num_top)
        raise InvalidRequest(
            say(
                "error.answers_too_long",
                num_answers=num_answers,
                num_tokens=min(max_tokens, room),
                scored=scored,
                most=most,
            ),
            param="max_tokens" if num_answers == 1 else "n",
            code="invalid_value",
        )
    return min(max_tokens, room)
