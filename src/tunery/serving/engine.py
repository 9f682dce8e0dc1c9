"""The engine's thread: takes commands, steps the scheduler and the model, hands out answers.

Everything mutable lives in this thread. Other threads speak to it through `submit`, `abort`, `load` and `unload`,
which only put a command into its queue.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from tunery.domain.errors import InvalidRequest, ServerFault
from tunery.serving.answer import Answer
from tunery.serving.forward.interface import Interrupted, never
from tunery.serving.metrics import EngineMetrics
from tunery.serving.registry import AdapterRegistry
from tunery.serving.requests import Generation, Output
from tunery.serving.runner import Runner
from tunery.serving.sampler import Sampled
from tunery.serving.scheduler import Scheduler
from tunery.serving.sequence import Batch, Sequence
from tunery.serving.text import TokenTable
from tunery.texts import say

log = logging.getLogger(__name__)

Sink = Callable[[list[Output]], None]
"""Receives the outputs of one step, in the engine's thread: it must return at once and not raise."""

Command = Callable[[], None]
T = TypeVar("T")


@dataclass(eq=False)
class _Request:
    sequence: Sequence
    answer: Answer
    arrived_at: float
    last_token_at: float | None = None

    def aborted(self) -> Output:
        """What was computed of it until now."""
        sequence, num_tokens = self.sequence, self.answer.num_tokens
        prompt = sequence.num_prompt_tokens
        if not num_tokens:
            prompt = min(prompt, sequence.num_computed_tokens)
        return Output(
            sequence.id,
            num_output_tokens=num_tokens,
            num_cached_tokens=min(prompt, sequence.num_cached_tokens),
            num_prompt_tokens=prompt,
            finish_reason="abort",
        )


class Engine:
    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        table: TokenTable,
        eos_ids: frozenset[int],
        sink: Sink,
    ) -> None:
        self.metrics = EngineMetrics()
        self.context_length = min(runner.context_length, scheduler.max_sequence_tokens)
        self.failure: BaseException | None = None  # what ended the thread, if anything did
        self._runner = runner
        self._scheduler = scheduler
        self._table = table
        self._eos_ids = eos_ids
        self._sink = sink
        self._commands: SimpleQueue[Command] = SimpleQueue()
        self._later: deque[Command] = deque()  # for steps that are not of the most urgent priority
        self._requests: dict[str, _Request] = {}
        self._registry = AdapterRegistry(runner, scheduler, self.metrics, self._commands.put, self._fail_adapter)
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._is_stopping = False
        self._most_urgent: float = inf  # priority of what was submitted since commands were last taken
        self._gave_way: int | None = None  # the priority of the last step that did; None: it has had one since
        self._num_preemptions = 0  # already counted

    # Called from any thread.

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End every request with an error and wait for the thread."""
        self._commands.put(self._stop)
        self._thread.join()
        self._registry.close()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping and self.failure is None

    @property
    def adapters(self) -> frozenset[str]:
        """Names that may be asked for."""
        return self._registry.names

    def submit(self, generations: list[Generation]) -> None:
        """Start generations together, so that equal prompts are computed once. Outputs come to the sink by id."""
        arrived_at = time.monotonic()
        self._commands.put(lambda: self._add_all(generations, arrived_at))
        self._most_urgent = min([self._most_urgent, *(generation.priority for generation in generations)])

    def abort(self, ids: list[str], *, report: bool = False) -> None:
        """End these sequences. With `report` a last output of each says what it came to; without, none follows.

        Unknown and finished ids are fine.
        """
        self._commands.put(lambda: self._abort_all(ids, report=report))

    def load(self, name: str, folder: Path) -> "Future[None]":
        """Register an adapter and read it. Done when it can answer; InvalidRequest when its files are no good."""
        future: Future[None] = Future()
        self._commands.put(lambda: self._registry.register(name, folder, future))
        return future

    def unload(self, name: str) -> "Future[None]":
        """Unregister an adapter; sequences that use it may finish. NotFound when there is none."""
        future: Future[None] = Future()
        self._commands.put(lambda: self._registry.unregister(name, future))
        return future

    def compute(self, work: Callable[[], T], priority: int = 0) -> "Future[T]":
        """Have `work` done in the engine's thread, between two steps: there it takes no core from them. With a
        `priority` above 0 it waits until there is nothing of priority 0 to step."""
        future: Future[T] = Future()
        command = partial(_compute, work, future)
        self._commands.put(partial(self._later.append, command) if priority > 0 else command)
        self._most_urgent = min(self._most_urgent, priority)
        return future

    # In the engine's thread.

    def _loop(self) -> None:
        try:
            self._runner.enter()
            while not self._is_stopping:
                self._drain(block=not self._step())
        except BaseException as exc:
            log.exception("the engine's thread ends")
            self.failure = exc
        self._fail_all("The engine has stopped.")

    def _drain(self, *, block: bool) -> None:
        try:
            self._most_urgent = inf  # before, so that what comes meanwhile is noticed
            self._commands.get(block=block)()
            while True:
                self._commands.get_nowait()()
        except Empty:
            return

    def _step(self) -> bool:
        """One forward pass. False when nothing is runnable until another command comes."""
        started_at = time.perf_counter()
        batch = self._scheduler.schedule()
        self._registry.start_loads()
        self._publish()
        has_turn = bool(self._later) and (batch is None or batch.priority > 0)
        if has_turn:
            self._later.popleft()()
        if batch is None:
            return has_turn
        try:
            sampled = self._runner.execute(batch, self._way_out(batch))
        except Interrupted:
            self._scheduler.undo(batch)
            self._gave_way = batch.priority
            return True
        except Exception:
            log.exception("a forward pass failed; its requests end with an error")
            self._fail_all("The engine could not compute this batch.")
            self._scheduler.blocks.forget_all()
            return True
        if batch.priority == self._gave_way:
            self._gave_way = None
        outputs = self._apply(batch, sampled)
        if outputs:
            self._sink(outputs)
        self.metrics.step.observe(time.perf_counter() - started_at)
        return True

    def _way_out(self, batch: Batch) -> Callable[[], bool]:
        """Whether to give the step up: for what is more urgent, but not twice in a row, so that it gets on under any
        stream of such requests."""
        priority = batch.priority
        return never if priority == self._gave_way else lambda: self._most_urgent < priority

    def _apply(self, batch: Batch, sampled: dict[str, Sampled]) -> list[Output]:
        ended = [run.sequence.id for run in batch.runs if run.needs_sample]
        self._scheduler.update(batch, {name: draw.token_id for name, draw in sampled.items()})
        now = time.monotonic()
        return [self._answer(self._requests[name], sampled.get(name), now) for name in ended]

    def _answer(self, request: _Request, draw: Sampled | None, now: float) -> Output:
        """`draw` None: the request asked for no token, only for its prompt."""
        sequence = request.sequence
        is_first = request.last_token_at is None
        self._observe(request, now)
        if draw is None:
            output = request.answer.end()
        elif not draw.is_finite:
            return self._astray(sequence)
        elif self._runner.has_failed(sequence.id):
            self._drop(sequence.id, "error")
            return Output(sequence.id, finish_reason="error", error=InvalidRequest(say("error.schema_grew")))
        else:
            self.metrics.output_tokens.inc()
            is_complete = self._runner.is_complete(sequence.id)
            output = request.answer.push(draw.token_id, draw.logprob, is_complete=is_complete)
        output = replace(output, num_cached_tokens=sequence.num_cached_tokens)
        if is_first or output.finish_reason is not None:
            scores = self._runner.prompt_logprobs(sequence.id)
            if scores is not None:
                output = replace(output, prompt_logprobs=tuple(scores))
        if output.finish_reason is not None:
            self._drop(sequence.id, output.finish_reason)
        return output

    def _astray(self, sequence: Sequence) -> Output:
        """Weights gave something that is no number: it must not stay in the cache, where it would spread."""
        self._runner.wipe(sequence.block_table)
        self._scheduler.blocks.forget(sequence.block_table)
        self._drop(sequence.id, "error")
        return Output(sequence.id, finish_reason="error", error=ServerFault(say("error.output_not_finite")))

    def _observe(self, request: _Request, now: float) -> None:
        if request.last_token_at is None:
            self.metrics.ttft.observe(now - request.arrived_at)
            self.metrics.prompt_tokens.inc(request.sequence.num_prompt_tokens)
            self.metrics.cached_tokens.inc(request.sequence.num_cached_tokens)
        else:
            self.metrics.inter_token.observe(now - request.last_token_at)
        request.last_token_at = now

    def _add_all(self, generations: list[Generation], arrived_at: float) -> None:
        for generation in generations:
            if generation.adapter is not None and not self._registry.acquire(generation.adapter):
                error = ServerFault(f"The adapter {generation.adapter!r} was unloaded.")
                self._sink([Output(generation.id, finish_reason="error", error=error)])
            else:
                self._add(generation, arrived_at)

    def _add(self, generation: Generation, arrived_at: float) -> None:
        sequence = Sequence(
            generation.id,
            list(generation.prompt_ids),
            len(generation.prompt_ids),
            adapter=generation.adapter,
            salt=generation.salt,
            priority=generation.priority,
            scored_from=generation.scored_from,
        )
        answer = Answer(generation, self._table, self._eos_ids, self.context_length)
        self._runner.track(generation)
        self._requests[generation.id] = _Request(sequence, answer, arrived_at)
        self._scheduler.add(sequence)

    def _abort_all(self, ids: list[str], *, report: bool) -> None:
        known = [self._requests[sequence_id] for sequence_id in ids if sequence_id in self._requests]
        outputs = [request.aborted() for request in known]
        for request in known:
            self._drop(request.sequence.id, "abort")
        if report and outputs:
            self._sink(outputs)

    def _drop(self, sequence_id: str, reason: str) -> None:
        request = self._requests.pop(sequence_id, None)
        if request is None:
            return
        self._scheduler.finish(request.sequence)
        self.metrics.finished.labels(reason).inc()
        self._runner.forget(sequence_id)
        if request.sequence.adapter is not None:
            self._registry.release(request.sequence.adapter)

    def _fail(self, ids: list[str], message: str) -> None:
        for sequence_id in ids:
            self._drop(sequence_id, "error")
        if ids:
            self._sink([Output(sequence_id, finish_reason="error", error=ServerFault(message)) for sequence_id in ids])

    def _fail_all(self, message: str) -> None:
        self._fail(list(self._requests), message)

    def _fail_adapter(self, name: str, message: str) -> None:
        ids = [key for key, request in self._requests.items() if request.sequence.adapter == name]
        self._fail(ids, message)

    def _stop(self) -> None:
        self._is_stopping = True

    def _publish(self) -> None:
        scheduler, blocks = self._scheduler, self._scheduler.blocks
        self.metrics.waiting.set(len(scheduler.waiting))
        self.metrics.running.set(len(scheduler.running))
        self.metrics.kv_use.set(blocks.num_used / blocks.num_blocks)
        self.metrics.cached_blocks.set(blocks.num_cached)
        self.metrics.preemptions.inc(scheduler.num_preemptions - self._num_preemptions)
        self._num_preemptions = scheduler.num_preemptions


def _compute(work: Callable[[], T], future: "Future[T]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as exc:
        future.set_exception(exc)
