"""An answer's way to its client, whole or as events, in whatever dialect it is.

Each is a task of its own, so that it comes to its end, the ledger, whether its client waits for it or not. A client
that goes away ends its answer early: the engine is told to stop, and says what the answer had come to. So does a key
that may no longer ask (revoked, expired, narrowed, its owner demoted or gone, its project archived): its client gets an
error in place of the rest.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import aclosing, closing
from functools import partial
from itertools import takewhile
from typing import Any, TypeVar

import orjson
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from tunery.api.access import check_still
from tunery.api.context import Context
from tunery.api.inference import InferenceRequest
from tunery.domain.errors import TuneryError
from tunery.domain.tenants import Caller, Scope
from tunery.metering.ledger import RequestIds
from tunery.store.database import read
from tunery.wire.stream import ClientGone, while_connected

log = logging.getLogger(__name__)

S = TypeVar("S")
T = TypeVar("T")
Asking = tuple[Caller, Scope]

CLIENT_CLOSED_REQUEST = 499  # nobody reads it; the log line has it
MAX_CLIENT_ID = 200
STOP_AGAIN_S = 0.5  # an engine may be told to stop before it has the request
UNHEARD_S = 60.0  # an engine that cannot be told for so long will not end the answer either
CLOSE_S = 10.0
LOOK_EVERY_S = 2.0  # at the rights of those whose answers are in the making
AHEAD = 64  # events of a stream that may wait for a slow client


def request_ids(request: Request, sent: dict[str, Any]) -> RequestIds:
    """The client's own id, when it sends one: a retry after a lost answer is then charged once.

    What was asked is a part of it: under one id, another question is another request, however the first one ended.
    """
    client = request.headers.get("idempotency-key") or request.headers.get("x-client-request-id")
    if not client:
        return RequestIds(request.state.request_id)
    digest = hashlib.sha256(orjson.dumps(sent)).hexdigest()[:16]
    return RequestIds(request.state.request_id, f"{client[:MAX_CLIENT_ID]} {digest}")


async def whole(
    request: Request, context: Context, admitted: InferenceRequest, work: Coroutine[Any, Any, dict[str, Any]]
) -> Response:
    """What `work` comes to, as JSON."""
    cut = asyncio.get_running_loop().create_future()
    task = context.shared(Running).answer(work, admitted.admission.caller, partial(_fail, cut))
    try:
        result = await while_connected(request, task, cut)
    except BaseException as exc:
        leave(context, admitted, task)
        if isinstance(exc, ClientGone):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        raise
    answer = Response(orjson.dumps(result), media_type="application/json", headers=admitted.headers)
    return Watched(answer, partial(leave, context, admitted, task))


def _fail(cut: asyncio.Future[Any], error: TuneryError) -> None:
    if not cut.done():
        cut.set_exception(error)


async def streamed(
    request: Request,
    context: Context,
    admitted: InferenceRequest,
    answer: AsyncGenerator[bytes],
    as_event: Callable[[TuneryError], bytes],
) -> Response:
    """The events of `answer`. What it raises before the first one still gets its status.

    `as_event`: how the dialect tells an error that ends the stream from outside of it.
    """
    events = Stream()
    running = context.shared(Running)
    task = running.answer(events.pump(answer), admitted.admission.caller, lambda error: events.cut(as_event(error)))
    taking = asyncio.create_task(events.take())

    def end() -> None:
        taking.cancel()
        events.leave()
        leave(context, admitted, task)

    try:
        first = await while_connected(request, taking)
        if first is None:
            await task  # raises why
    except BaseException as exc:
        end()
        if isinstance(exc, ClientGone):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        raise
    following = _follow(first, events, task)
    return Watched(StreamingResponse(following, media_type="text/event-stream", headers=admitted.headers), end)


async def _follow(first: bytes | None, events: "Stream", task: asyncio.Task[None]) -> AsyncIterator[bytes]:
    event = first
    while event is not None:
        yield event
        event = await events.take()
    if not events.is_left:
        await task


class Watched(Response):
    """Another response; `leave` is called when it is over, whatever ended it."""

    def __init__(self, response: Response, leave: Callable[[], None]) -> None:
        self._response, self._leave = response, leave
        self.background = None

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._leave()


class Stream:
    """The events of an answer on their way from its task to the client."""

    def __init__(self) -> None:
        self.is_left, self._is_over = False, False
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(AHEAD)

    async def pump(self, events: AsyncGenerator[bytes]) -> None:
        """The task's part: to the end of the answer, also when nobody takes the events any more."""
        try:
            async with aclosing(events):
                async for event in events:
                    if not self.is_left:
                        await self._waiting.put(event)
        finally:
            if not self.is_left:
                await self._waiting.put(None)

    async def take(self) -> bytes | None:
        """The next events in one piece, as many as wait: to send costs more than to join. None after the last one, or
        where the task failed."""
        if self._is_over:
            return None
        some = [await self._waiting.get()]
        while not self._waiting.empty():
            some.append(self._waiting.get_nowait())
        self._is_over = None in some
        events = takewhile(lambda event: event is not None, some)
        return b"".join(filter(None, events)) or None

    def leave(self) -> None:
        self.is_left = True
        while not self._waiting.empty():
            self._waiting.get_nowait()

    def cut(self, last: bytes) -> None:
        """Nothing follows but this event."""
        if not self.is_left:
            self.leave()
            self._waiting.put_nowait(last)
            self._waiting.put_nowait(None)


# ---- the answers in the making, and what ends them early


class Running:
    """The tasks. They outlive the requests that they were begun for, not the process."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answers: dict[asyncio.Task[Any], tuple[Asking, Callable[[TuneryError], None]]] = {}

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def answer(
        self,
        work: Coroutine[Any, Any, T],
        caller: Caller,
        cut: Callable[[TuneryError], None],
        scope: Scope = Scope.MODELS_REQUEST,
    ) -> asyncio.Task[T]:
        """Starts the answer to `caller`, who needs `scope` until it is there. `cut` gives the client an error in place
        of what is still to come."""
        task = self.start(work)
        self._answers[task] = (caller, scope), cut
        task.add_done_callback(lambda _: self._answers.pop(task, None))
        return task

    async def held(
        self,
        work: Coroutine[Any, Any, T],
        caller: Caller,
        scope: Scope,
        stop: Callable[[], Awaitable[bool]] | None = None,
    ) -> T:
        """The result of `work`. When the right ends before it, that is raised, and `stop` asks the engine to end what
        is then only counted. None: there is nothing to be counted, and `work` is cancelled."""
        cut: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = self.answer(work, caller, partial(_fail, cut), scope)
        await asyncio.wait({task, cut}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if stop is None:
            task.cancel()
        else:
            self.start(_end_early(task, stop))
        return cut.result()

    @property
    def callers(self) -> set[Asking]:
        """Those who have an answer in the making, and the scope that each needs for it."""
        return {asking for asking, _ in self._answers.values()}

    def cut_off(self, asking: Asking, error: TuneryError) -> None:
        """All answers to this caller that need this scope."""
        for each, cut in list(self._answers.values()):
            if each == asking:
                cut(error)

    async def close(self) -> None:
        """At shutdown, when no client is left: what runs has been told to end, and now has a moment for it."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_S)
            for task in late:
                task.cancel()


def leave(context: Context, admitted: InferenceRequest, task: asyncio.Task[Any]) -> None:
    """The client has its answer, or has gone. Either way it was the one answer of its request: a retry is another."""
    if task.done():
        context.meter.delivered(admitted.admission)
    else:
        admitted.gone.set()
    if not task.done() or admitted.admission.ids.client is not None:
        context.shared(Running).start(_leave(context, admitted, task))


async def _leave(context: Context, admitted: InferenceRequest, task: asyncio.Task[Any]) -> None:
    if not task.done():
        await _end_early(task, partial(context.engines.stop, admitted.admission.ids.server))
        context.meter.delivered(admitted.admission)
    if admitted.admission.ids.client is not None:  # at once, since the retry may come to another server
        await asyncio.to_thread(context.meter.flush)


async def _end_early(task: asyncio.Task[Any], stop: Callable[[], Awaitable[bool]]) -> None:
    """Until the task is over. `stop` asks its engine for that; False: the engine did not hear it."""
    clock = asyncio.get_running_loop().time
    heard_at = clock()
    while not task.done():
        if await stop():
            heard_at = clock()
        await asyncio.wait({task}, timeout=STOP_AGAIN_S)
        if clock() > heard_at + UNHEARD_S:
            task.cancel()
    if not task.cancelled() and (problem := task.exception()) is not None and not isinstance(problem, TuneryError):
        log.error("an answer whose client had gone failed", exc_info=problem)


def while_allowed(
    context: Context, caller: Caller, scope: Scope, steps: Generator[S, None, T]
) -> Generator[S, None, T]:
    """The same steps, of long work in a thread. Raises between two of them when the right to it has ended."""
    looked_at = time.monotonic()
    with closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as done:
                return done.value
            yield step
            if time.monotonic() > looked_at + LOOK_EVERY_S:
                with read(context.database) as conn:
                    check_still(conn, caller, scope, context.clock())
                looked_at = time.monotonic()


async def watch_rights(context: Context) -> None:
    """Runs as long as the server. Of all answers together it reads a few rows each time, and none while there are no
    answers."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        running = context.shared(Running)
        try:
            if callers := running.callers:
                lost = await context.look(partial(_lost, context, callers))
                for asking, error in lost.items():
                    running.cut_off(asking, error)
        except SQLAlchemyError:
            log.warning("the rights of running answers could not be looked at; they are looked at again", exc_info=True)


def _lost(context: Context, callers: set[Asking]) -> dict[Asking, TuneryError]:
    lost: dict[Asking, TuneryError] = {}
    with read(context.database) as conn:
        for caller, scope in callers:
            try:
                check_still(conn, caller, scope, context.clock())
            except TuneryError as error:
                lost[caller, scope] = error
    return lost
