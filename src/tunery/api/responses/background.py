"""Responses that are answered in the background: begun by one request, followed by others.

What the model says is written to the database twice a second, so that whoever follows, through whichever process, sees
it, and so that everybody knows that somebody still works on it. A process that is killed leaves responses that nobody
works on: any other finds them, and ends them as failed.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from threading import Lock
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from tunery.api import inference
from tunery.api.access import check_still
from tunery.api.context import Context
from tunery.api.delivery import Running, leave
from tunery.api.responses.service import USED_S, PendingResponse, body_of, events, release, stored, written
from tunery.domain.errors import InvalidRequest, TuneryError
from tunery.domain.responses import UNDER_WAY, StoredResponse
from tunery.domain.tenants import Caller, Scope
from tunery.store import conversations, responses
from tunery.store.database import read, write
from tunery.texts import say
from tunery.wire.responses.reply import Reply, error_event, replayed

log = logging.getLogger(__name__)

Json = dict[str, Any]

WRITE_EVERY_S = 0.5
FOLLOW_EVERY_S = 0.2
LEFT_ALONE_S = 60.0  # a process that works on a response says so twice a second


async def begin(context: Context, pending: PendingResponse) -> Json:
    """The response as it is now: queued."""
    response = {**pending.response, "status": "queued"}
    try:
        await asyncio.to_thread(_insert, context, pending, response)
    except BaseException:
        await release(context, pending)
        await inference.abandon(context, pending.admitted)
        raise
    work = _Work(context, pending)
    context.shared(Running).answer(work.run(), pending.admitted.admission.caller, work.cut)
    return response


def _insert(context: Context, pending: PendingResponse, response: Json) -> None:
    now = context.now()
    with write(context.database) as conn:
        if pending.admitted.room is not None:
            pending.admitted.room.give_back(conn)
        responses.insert_response(conn, stored(pending, response, seen_at=now))
        responses.add_items(conn, pending.project_id, pending.own, now, response_id=pending.id)


class _Work:
    """On one response, until it has ended."""

    def __init__(self, context: Context, pending: PendingResponse) -> None:
        self._context, self._pending, self._reply = context, pending, pending.reply
        self._waiting: list[Json] = []  # events that are not written yet
        self._pen = Lock()  # so that each is written once, whichever thread writes
        self._answering: asyncio.Task[None] | None = None
        self._problem: BaseException | None = None  # why it fails

    async def run(self) -> None:
        answering = self._answering = asyncio.create_task(self._answer())
        writing = asyncio.create_task(self._write_now_and_then())
        has_ended = False
        try:
            await asyncio.wait({answering})
            self._problem = self._problem or answering.exception()
            if self._problem is not None:
                log.warning("background response %s failed: %r", self._pending.id, self._problem)
            await asyncio.to_thread(self._end)
            has_ended = True
        finally:
            writing.cancel()
            answering.cancel()
            await asyncio.wait({answering})
            self._context.meter.delivered(self._pending.admitted.admission)
            if not has_ended:  # the server is being stopped, or its database is away
                self._problem = InterruptedError()
                await asyncio.shield(asyncio.to_thread(self._end))

    def cut(self, error: TuneryError) -> None:
        """The key that asked may no longer."""
        self._problem = self._problem or error
        self._stop()

    def _stop(self) -> None:
        if self._answering is not None and not self._pending.admitted.gone.is_set():
            leave(self._context, self._pending.admitted, self._answering)

    async def _answer(self) -> None:
        async with aclosing(events(self._context, self._pending, is_queued=True)) as told:
            async for some in told:
                self._waiting += some

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            try:
                status = await asyncio.to_thread(self._write)
            except SQLAlchemyError:
                log.exception("background response %s could not be written; it is tried again", self._pending.id)
                continue
            if status not in UNDER_WAY:  # it was cancelled, or deleted
                self._stop()

    def _write(self) -> str | None:
        with self._pen:
            told, now = list(self._waiting), self._context.now()
            with write(self._context.database) as conn:
                status = responses.add_events(conn, self._pending.id, told, now)
                if self._pending.conversation is not None:
                    conversations.keep_locked(conn, self._pending.conversation, self._pending.id, until=now + USED_S)
                if status == "queued" and told:
                    responses.begin_response(conn, self._pending.id, now)
            del self._waiting[: len(told)]
        return status

    def _end(self) -> None:
        pending, reply, problem, now = self._pending, self._reply, self._problem, self._context.now()
        with self._pen, write(self._context.database) as conn:
            status = responses.add_events(conn, pending.id, self._waiting, now)
            if problem is not None:
                code = "invalid_prompt" if isinstance(problem, InvalidRequest) else "server_error"
                last = reply.fail(_reason(problem), code)
            else:
                last = reply.end(now, is_cancelled=status == "cancelled")
            if status == "cancelled":
                reply.response["status"] = status
            body, output = body_of(reply.response), reply.response["output"]
            has_ended = responses.end_response(
                conn, pending.id, pending.project_id, body, output, now, after=(*UNDER_WAY, "cancelled")
            )
            if has_ended:
                responses.add_events(conn, pending.id, last, now)
            if pending.conversation is not None:
                if has_ended and body["status"] in ("completed", "incomplete"):
                    responses.give_to_conversation(conn, pending.id, pending.conversation)
                conversations.unlock_conversation(conn, pending.conversation, pending.id)


def _reason(problem: BaseException) -> str:
    if isinstance(problem, TuneryError):
        return problem.message
    return say("error.response_interrupted" if isinstance(problem, InterruptedError) else "error.response_failed")


# ---- for those who ask about it


def cancel(context: Context, found: StoredResponse) -> None:
    """From now on it is cancelled; who works on it notices."""
    with write(context.database) as conn:
        body = {**found.body, "status": "cancelled"}
        responses.end_response(conn, found.id, found.project_id, body, [], context.now(), after=UNDER_WAY)


async def follow(
    context: Context, caller: Caller, scope: Scope, found: StoredResponse, after: int
) -> AsyncGenerator[bytes]:
    """The events with a higher sequence number than `after`, until the response has ended, or the caller's right to
    follow it.

    Those of a response that was not answered in the background were not kept: they are told anew, each text in one
    piece.
    """
    if not found.is_background:
        whole = {**found.body, "output": await context.look(partial(_output, context, found.id))}
        yield written([event for event in replayed(whole) if event["sequence_number"] > after])
        return
    while True:
        try:
            status, told = await context.look(partial(_news, context, caller, scope, found, after))
        except TuneryError as error:
            yield written([error_event(after + 1, error.message, error.code, error.param)])
            return
        if told:
            after = told[-1]["sequence_number"]
            yield written(told)
        if status not in UNDER_WAY:
            return
        await asyncio.sleep(FOLLOW_EVERY_S)


def _output(context: Context, response_id: str) -> list[Json]:
    with read(context.database) as conn:
        return responses.items_of(conn, response_id, direction="output")


def _news(
    context: Context, caller: Caller, scope: Scope, found: StoredResponse, after: int
) -> tuple[str | None, list[Json]]:
    with read(context.database) as conn:
        check_still(conn, caller, scope, context.clock())
        now = responses.find_response(conn, found.id, found.project_id)
        return None if now is None else now.status, responses.events_after(conn, found.id, after)


def is_left_alone(context: Context, found: StoredResponse) -> bool:
    return not found.has_ended and (found.seen_at or 0) < int(context.clock() - LEFT_ALONE_S)


def end_left_alone(context: Context) -> None:
    """Those whose process was killed end as failed."""
    now = context.clock()
    with write(context.database) as conn:
        for found in responses.left_alone(conn, now - LEFT_ALONE_S):
            told = responses.events_after(conn, found.id, -1)
            reply = Reply({**found.body, "output": _told_items(told)}, next_number=len(told))
            last = reply.fail(say("error.response_interrupted"))
            output = reply.response["output"]
            body = body_of(reply.response)
            if responses.end_response(conn, found.id, found.project_id, body, output, int(now), after=UNDER_WAY):
                responses.add_events(conn, found.id, last, int(now))
            conversation = found.body.get("conversation")
            if conversation is not None:
                conversations.unlock_conversation(conn, conversation["id"], found.id)


def _told_items(told: list[Json]) -> list[Json]:
    """The items that were told to their end."""
    return [event["item"] for event in told if event["type"] == "response.output_item.done"]
