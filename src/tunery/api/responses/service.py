"""One response from the request to the ledger: what the model is to see is put together, asked for as a chat
(`api.inference`), and what comes back is told, and kept, as a response."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from tunery.api import inference
from tunery.api.context import Context
from tunery.domain.errors import InvalidRequest, TuneryError
from tunery.domain.ids import new_id
from tunery.domain.responses import ENDED, StoredResponse
from tunery.domain.tenants import Caller
from tunery.engines.pool import Target, resolve
from tunery.metering.ledger import RequestIds
from tunery.store import conversations, responses
from tunery.store.database import read, write
from tunery.texts import say
from tunery.wire.chat import check
from tunery.wire.responses.items import check_ids, num_droppable, read_items, references, resolved, without_oldest
from tunery.wire.responses.reply import Reply, new_response
from tunery.wire.responses.request import (
    INPUT_TOKENS,
    RESPONSES,
    chat_request,
    check_include,
    own_param,
    streamed,
)
from tunery.wire.stream import write_event

log = logging.getLogger(__name__)

Json = dict[str, Any]

USED_S = 600.0  # how long a conversation waits for a response whose process was killed; clients wait as long


@dataclass(frozen=True)
class PendingResponse:
    """A request for a response that was let in."""

    admitted: inference.InferenceRequest
    sent: Json
    own: list[Json]  # the items of its own input, for those who come after
    reply: Reply

    @property
    def response(self) -> Json:
        """As far as it has come."""
        return self.reply.response

    @property
    def id(self) -> str:
        return self.response["id"]

    @property
    def project_id(self) -> str:
        return self.admitted.admission.caller.project_id

    @property
    def is_kept(self) -> bool:
        return self.sent.get("store") is not False

    @property
    def conversation(self) -> str | None:
        return self.sent.get("conversation")


async def admit(
    context: Context, caller: Caller, ids: RequestIds, sent: Json, *, is_batch: bool = False
) -> PendingResponse:
    """Raises what `inference.admit` does, in the words of this dialect, NotFound for what the request refers to, and
    InvalidRequest for a conversation that is in use."""
    _check(sent)
    response_id = new_id("response")
    if sent.get("conversation") is None:
        return await _admit(context, caller, ids, sent, response_id, is_batch)
    await asyncio.to_thread(_lock, context, caller, sent["conversation"], response_id)
    try:
        return await _admit(context, caller, ids, sent, response_id, is_batch)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(_unlock, context, sent["conversation"], response_id))
        raise


async def _admit(
    context: Context, caller: Caller, ids: RequestIds, sent: Json, response_id: str, is_batch: bool
) -> PendingResponse:
    earlier, own, body = await _prompt(context, caller, sent)
    if sent.get("stream") or sent.get("background"):
        body = streamed(body)
    keeps = sent.get("store") is not False or sent.get("conversation") is not None
    with _own_words():
        admitted = await inference.admit(context, caller, ids, "chat", body, keeps=keeps, is_batch=is_batch)
        if sent.get("truncation") == "auto" and admitted.target.upstream is None:
            try:
                admitted = await _fit(context, admitted, sent, earlier + own)
            except BaseException:
                await inference.abandon(context, admitted)
                raise
    response = new_response(response_id, context.now(), {**sent, "model": admitted.target.public_name})
    return PendingResponse(admitted, sent, own, Reply(response))


def _check(sent: Json) -> None:
    """What no other part of a request and no model decides."""
    check(sent, RESPONSES)
    check_include(sent.get("include"))
    _check_prompt(sent)
    if sent.get("background") and sent.get("store") is False:
        raise InvalidRequest(say("error.background_needs_store"), param="background", code="invalid_value")


def _check_prompt(sent: Json) -> None:
    if sent.get("previous_response_id") is not None and sent.get("conversation") is not None:
        raise InvalidRequest(
            say("error.previous_and_conversation"), param="previous_response_id", code="mutually_exclusive_parameters"
        )
    effort = (sent.get("reasoning") or {}).get("effort")
    if effort not in (None, "none"):
        raise _unsupported("reasoning.effort", RESPONSES["reasoning"].note)
    if (sent.get("text") or {}).get("verbosity") not in (None, "medium"):
        raise _unsupported("text.verbosity", RESPONSES["text"].note)


def _unsupported(name: str, note: str) -> InvalidRequest:
    message = say("error.parameter_not_supported", name=name, note=note)
    return InvalidRequest(message, param=name, code="unsupported_parameter")


@contextmanager
def _own_words() -> Iterator[None]:
    """Errors of the chat that is asked name what this dialect calls the parameter."""
    try:
        yield
    except InvalidRequest as exc:
        exc.param = own_param(exc.param)
        raise


# ---- what the model is to see


async def _prompt(context: Context, caller: Caller, sent: Json) -> tuple[list[Json], list[Json], Json]:
    """What came before, the request's own items, and the chat that says the same."""

    def put_together() -> tuple[list[Json], list[Json], Json]:
        earlier, own = _items(context, caller, sent)
        return earlier, own, chat_request(sent, earlier + own)

    is_short = isinstance(sent.get("input"), str) and not (sent.get("previous_response_id") or sent.get("conversation"))
    return put_together() if is_short else await run_in_threadpool(put_together)


def _items(context: Context, caller: Caller, sent: Json) -> tuple[list[Json], list[Json]]:
    """What came before, and the request's own."""
    own = read_items(sent.get("input") or [])
    previous, conversation = sent.get("previous_response_id"), sent.get("conversation")
    wanted = references(own)
    if not (previous or conversation or wanted):
        check_ids(own, "input")
        return [], own
    earlier: list[Json] = []
    with read(context.database) as conn:
        if previous:
            earlier = _chain(conn, previous, caller.project_id)
        elif conversation:
            conversations.get_conversation(conn, conversation, caller.project_id)
            earlier = conversations.all_items(conn, conversation)
        own = resolved(own, responses.find_items(conn, caller.project_id, wanted))
    check_ids(own, "input", [item["id"] for item in earlier] if conversation else ())
    return earlier, own


def _chain(conn: Connection, response_id: str, project_id: str) -> list[Json]:
    """Inputs and outputs of a response and all before it, oldest first."""
    links = responses.chain(conn, response_id, project_id)
    if not links or links[-1].previous_response_id is not None:
        missing = links[-1].previous_response_id if links else response_id
        raise InvalidRequest(
            say("error.previous_response_not_found", response_id=missing),
            param="previous_response_id",
            code="previous_response_not_found",
        )
    if links[0].status not in ENDED:
        raise InvalidRequest(say("error.previous_response_under_way"), param="previous_response_id")
    return responses.items_of(conn, *(link.id for link in links))


async def count_input(context: Context, caller: Caller, sent: Json) -> int:
    """Tokens of the prompt that a request for a response would have."""
    check(sent, INPUT_TOKENS)
    _check_prompt(sent)
    earlier, own, body = await _prompt(context, caller, sent)
    with _own_words():
        target = await context.look(partial(_resolve, context, caller, sent["model"]))
        if target.upstream is not None:
            theirs = ("instructions", "text", "tools", "tool_choice", "parallel_tool_calls", "reasoning")
            passed_on = {name: sent[name] for name in theirs if sent.get(name) is not None} | {"input": earlier + own}
            path = "/v1/responses/input_tokens"
            async with context.upstream.post(path, passed_on, target) as given:
                return orjson.loads(await given.read())["input_tokens"]
        return (await _count(context, target, body))[0]


def _resolve(context: Context, caller: Caller, model: str) -> Target:
    with read(context.database) as conn:
        return resolve(conn, context.catalog, model, caller.project_id)


async def _count(context: Context, target: Target, body: Json) -> tuple[int, int]:
    """Tokens of a chat's prompt, and the longest that the engine takes together with its answer."""
    shown = body.get("tools") if body.get("tool_choice") != "none" else None
    prompt = {"messages": body["messages"], **({"tools": shown} if shown else {})}
    async with context.engines.post("/tokenize", prompt, target) as given:
        counted = orjson.loads(await given.read())
    return counted["count"], counted["max_model_len"]


async def _fit(
    context: Context, admitted: inference.InferenceRequest, sent: Json, items: list[Json]
) -> inference.InferenceRequest:
    """The same with as many of the oldest items left out as is needed, when the prompt is too long.

    It then leaves room for the longest answer asked for, or a quarter of the context, and never less than half to the
    prompt. The least number to leave out is found by halving: ten counts for a thousand items.
    """
    target, body = admitted.target, admitted.forwarded
    if await _fits(context, target, body):
        return admitted
    low, high = 1, num_droppable(items)
    _, limit = await _count(context, target, chat_request(sent, without_oldest(items, high)))
    room = min(sent.get("max_output_tokens") or limit // 4, limit // 2)
    while low < high:
        middle = (low + high) // 2
        if await _fits(context, target, chat_request(sent, without_oldest(items, middle)), room):
            high = middle
        else:
            low = middle + 1
    messages = chat_request(sent, without_oldest(items, high))["messages"]
    return replace(admitted, forwarded={**body, "messages": messages})


async def _fits(context: Context, target: Target, body: Json, room: int = 1) -> bool:
    """Whether the context has so much room beside the prompt. The engine does not even count what is far too long."""
    try:
        count, limit = await _count(context, target, body)
    except InvalidRequest as exc:
        if exc.code != "context_length_exceeded":
            raise
        return False
    return count + room <= limit


# ---- the answer


async def complete(context: Context, pending: PendingResponse) -> Json:
    """The whole response. The ledger has it, and so has who may ask for it later, before the client does."""
    reply = pending.reply

    def keep(conn: Connection, answer: Json) -> None:
        reply.begin()
        reply.take(answer)
        _end(context, pending, conn)

    try:
        with _own_words():
            await inference.complete(context, pending.admitted, keep)
    except BaseException:
        await release(context, pending)
        raise
    return reply.response


async def stream(context: Context, pending: PendingResponse) -> AsyncGenerator[bytes]:
    """The events of the response. What `inference.chunks` raises before the first is raised here, too."""
    reply, last = pending.reply, list[Json]()

    def keep(conn: Connection) -> None:
        last.extend(_end(context, pending, conn))

    try:
        async with aclosing(events(context, pending, keep)) as told:
            async for some in told:
                yield written(some)
        if not last:  # the engine was lost
            await asyncio.to_thread(_end_uncounted, context, pending, last)
        yield written(last)
    except SQLAlchemyError:  # of the ledger, or where responses are kept
        log.exception("response %s could not be kept", pending.id)
        await release(context, pending)
        yield written([reply.error(say("error.response_not_kept"), "server_error")])
    except BaseException:
        await release(context, pending)
        raise


def _end_uncounted(context: Context, pending: PendingResponse, last: list[Json]) -> None:
    with write(context.database) as conn:
        last.extend(_end(context, pending, conn))


def _end(context: Context, pending: PendingResponse, conn: Connection) -> list[Json]:
    """The last events. What they tell of is kept before the client hears of it."""
    last = pending.reply.end(context.now(), is_cancelled=pending.admitted.gone.is_set())
    _keep(context, pending, conn)
    return last


def written(events: list[Json]) -> bytes:
    """In one piece: to send costs more than to write."""
    return b"".join(write_event(event, event["type"]) for event in events)


async def events(
    context: Context,
    pending: PendingResponse,
    keep: Callable[[Connection], None] | None = None,
    *,
    is_queued: bool = False,
) -> AsyncGenerator[list[Json]]:
    """Those that came together. All but the last, which `reply.end` gives. `keep`: once there is the usage."""
    reply = pending.reply

    def counted(conn: Connection, answer: Json) -> None:
        reply.take({"usage": answer["usage"]})
        if keep is not None:
            keep(conn)

    with _own_words():
        async with aclosing(inference.chunks(context, pending.admitted, counted)) as answer:
            first = await anext(answer, None)
            yield [*reply.begin(is_queued=is_queued), *reply.take(first or {})]
            async for chunk in answer:
                if told := reply.take(chunk):
                    yield told


def in_an_event(pending: PendingResponse, error: TuneryError) -> bytes:
    return write_event(pending.reply.error(error.message, error.code, error.param), "error")


def _keep(context: Context, pending: PendingResponse, conn: Connection) -> None:
    """Whoever finds the response finds its items, and the conversation is free again."""
    response, now = pending.response, context.now()
    conversation = pending.conversation if response["status"] in ("completed", "incomplete") else None
    if pending.is_kept:
        responses.insert_response(conn, stored(pending, response))
    if pending.is_kept or conversation is not None:
        responses.add_items(
            conn,
            pending.project_id,
            pending.own,
            now,
            output=response["output"],
            response_id=pending.id if pending.is_kept else None,
            conversation_id=conversation,
        )
    if pending.conversation is not None:
        conversations.unlock_conversation(conn, pending.conversation, pending.id)


def stored(pending: PendingResponse, response: Json, *, seen_at: int | None = None) -> StoredResponse:
    return StoredResponse(
        id=pending.id,
        project_id=pending.project_id,
        created_at=response["created_at"],
        model=response["model"],
        status=response["status"],
        body=body_of(response),
        metadata=pending.sent.get("metadata"),
        previous_response_id=pending.sent.get("previous_response_id"),
        is_background=pending.sent.get("background") is True,
        seen_at=seen_at,
    )


def body_of(response: Json) -> Json:
    """What is kept of it beside its items."""
    return {name: value for name, value in response.items() if name != "output"}


def _lock(context: Context, caller: Caller, conversation: str, response_id: str) -> None:
    now = context.clock()
    with write(context.database) as conn:
        if conversations.lock_conversation(
            conn, conversation, caller.project_id, response_id, now=now, until=now + USED_S
        ):
            return
    error = InvalidRequest(
        say("error.conversation_locked", conversation_id=conversation), param="conversation", code="conversation_locked"
    )
    error.status = 409  # the official clients wait a little and send it again, which is what helps here
    raise error


def _unlock(context: Context, conversation: str, response_id: str) -> None:
    with write(context.database) as conn:
        conversations.unlock_conversation(conn, conversation, response_id)


async def release(context: Context, pending: PendingResponse) -> None:
    """Shielded: it also runs when the task is cancelled."""
    if pending.conversation is not None:
        await asyncio.shield(asyncio.to_thread(_unlock, context, pending.conversation, pending.id))
