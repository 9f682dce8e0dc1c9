"""One completion from the request to the ledger."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import orjson
from sqlalchemy import Connection

from tunery.api.body import without_nul
from tunery.api.context import Context
from tunery.api.running import Running, end_early
from tunery.domain.completions import StoredCompletion
from tunery.domain.errors import InvalidRequest
from tunery.domain.schemas import check_cost, request_schemas
from tunery.domain.tenants import Caller
from tunery.engines.errors import EngineLost
from tunery.engines.http import Answer
from tunery.engines.resolve import Target, resolve
from tunery.metering.ledger import RequestIds
from tunery.metering.meter import Ticket
from tunery.metering.rates import Subjects, has_rates
from tunery.metering.storage import check_storage
from tunery.store import completions
from tunery.store.database import read, write
from tunery.wire import chat
from tunery.wire.chat import Assembly
from tunery.wire.parameters import CHAT, COMPLETIONS, check
from tunery.wire.stream import DONE, read_events, write_event
from tunery.wire.usage import Received, completed, estimated_tokens, for_ledger

Json = dict[str, Any]
Kind = Literal["chat", "completion"]
PATHS: dict[Kind, str] = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}
NOT_FOR_THE_ENGINE = ("store", "metadata", "modalities")


@dataclass(frozen=True)
class Ask:
    """A request that may go to the engine: checked, resolved, let in."""

    kind: Kind
    sent: Json  # as received
    forwarded: Json  # for the engine
    target: Target
    ticket: Ticket

    @property
    def is_stored(self) -> bool:
        """What is passed on is always kept: to record the answers is why it is passed on."""
        return self.kind == "chat" and (self.sent.get("store") is True or self.target.upstream is not None)

    @property
    def wants_usage(self) -> bool:
        """Whether the client asked for the last chunk with the usage; the ledger always needs it."""
        return bool((self.sent.get("stream_options") or {}).get("include_usage"))

    @property
    def headers(self) -> dict[str, str]:
        """An alias may point anywhere: the answer says which weights gave it."""
        return {**self.ticket.headers, "x-tunery-model": self.target.weights_name}


async def admit(context: Context, caller: Caller, ids: RequestIds, kind: Kind, sent: Json) -> Ask:
    """Raises InvalidRequest for parameters, NotFound for the model, RateLimited for limits and budget."""
    forwarded = check(sent, CHAT if kind == "chat" else COMPLETIONS)
    if chat.is_legacy(forwarded):
        forwarded = chat.as_tools(forwarded)
    for name in NOT_FOR_THE_ENGINE:
        forwarded.pop(name, None)
    if forwarded.get("stream"):
        forwarded["stream_options"] = {"include_usage": True}
    # Blocks of the prefix cache are never shared between projects: what is cached tells what was asked.
    forwarded["cache_salt"] = caller.project_id
    forwarded["request_id"] = ids.server
    check_cost(request_schemas(sent))
    target, subjects, ids = await context.look(partial(_look, context, caller, ids, kind, sent))
    tokens = estimated_tokens(sent, target.base.context_length if target.base else None)
    let_in = partial(context.meter.let_in, caller, ids, subjects, model=target.weights_name, estimated_tokens=tokens)
    ticket = await asyncio.to_thread(let_in) if has_rates(subjects) else let_in()
    return Ask(kind, sent, forwarded, target, ticket)


def _look(
    context: Context, caller: Caller, ids: RequestIds, kind: Kind, sent: Json
) -> tuple[Target, Subjects, RequestIds]:
    with read(context.database) as conn:
        target = resolve(conn, context.catalog, sent["model"], caller.project_id)
        if kind == "chat" and sent.get("store") is True:
            # The answer's own bytes are not known yet: each request that runs may go past the limit by its answer.
            check_storage(
                conn,
                context.settings,
                caller.project_id,
                len(orjson.dumps(sent)),
                now=context.clock(),
                param="store",
            )
        if target.upstream is not None:
            context.prices.check_upstream(target.upstream, context.clock(), param="model")
        return target, context.meter.look(conn, caller), context.meter.find_lost(conn, caller, ids)


@asynccontextmanager
async def _asked(context: Context, ask: Ask) -> AsyncIterator[Answer]:
    """The answer of the engine or the upstream, to be read in the block. Its errors name what the client sent."""
    backend = context.engines if ask.target.upstream is None else context.upstream
    try:
        async with backend.post(PATHS[ask.kind], ask.forwarded, ask.target) as given:
            yield given
    except InvalidRequest as exc:
        if chat.is_legacy(ask.sent):
            exc.param = chat.own_param(exc.param)
        raise


async def complete(context: Context, ask: Ask) -> Json:
    """The whole answer. The ledger has it before the client does."""
    try:
        async with _asked(context, ask) as given:
            answer = orjson.loads(await given.read())
    except BaseException:
        await _abandon(context, ask)
        raise
    answer["model"] = ask.target.public_name
    answer["usage"] = completed(answer.get("usage") or {}, context.settings.cached_token_rule)
    if chat.is_legacy(ask.sent):
        answer = chat.as_function_call(answer)
    await asyncio.to_thread(_keep, context, ask, answer["usage"], answer)
    return answer


async def stream(context: Context, ask: Ask, is_left: Callable[[], bool] = lambda: False) -> AsyncGenerator[bytes]:
    """The answer as server-sent events.

    The caller awaits the first one before the response starts, so that an error of the engine still has its status;
    later ones can only be told in the stream. The ledger has the usage before the last event leaves. Read it to its
    end also when the client has gone; `is_left` says so.
    """
    assembly = Assembly() if ask.is_stored else None
    received = Received(ask.sent)
    settled = False
    try:
        async with _asked(context, ask) as given:
            async for chunk in read_events(given.chunks()):
                if "error" in chunk:
                    yield write_event(chunk)
                    return
                received.take(chunk)
                if chunk.get("usage"):
                    chunk["usage"] = completed(chunk["usage"], context.settings.cached_token_rule)
                shown = _shown(ask, chunk)
                if assembly is not None and shown is not None:
                    assembly.add(shown)
                if chunk.get("usage") and not chunk.get("choices"):
                    answer = None if assembly is None else {**assembly.result(), "usage": chunk["usage"]}
                    await asyncio.to_thread(_keep, context, ask, chunk["usage"], answer)
                    settled = True
                if shown is not None:
                    yield write_event(shown)
                if is_left() and not given.ends_with_usage:
                    break
        if not settled:  # it was broken off, or the engine keeps no count
            usage = completed(received.usage(), context.settings.cached_token_rule)
            await asyncio.to_thread(_keep, context, ask, usage, None)
            settled = True
    except EngineLost as exc:
        yield write_event(exc.body())
        return
    finally:
        if not settled:
            await _abandon(context, ask)
    yield DONE


def leave(context: Context, ask: Ask, task: asyncio.Task[Any]) -> None:
    """The client has its answer, or has gone. Either way it was the one answer of its request: a retry is another."""
    if task.done():
        context.meter.delivered(ask.ticket)
    if not task.done() or ask.ticket.ids.client is not None:
        context.shared(Running).start(_leave(context, ask, task))


async def _leave(context: Context, ask: Ask, task: asyncio.Task[Any]) -> None:
    if not task.done():
        await end_early(task, partial(context.engines.stop, ask.ticket.ids.server))
        context.meter.delivered(ask.ticket)
    if ask.ticket.ids.client is not None:  # at once, since the retry may come to another server
        await asyncio.to_thread(context.meter.flush)


def _shown(ask: Ask, chunk: Json) -> Json | None:
    """The chunk for the client; None for the one with only the usage when the client did not ask for it."""
    shown = {**chunk, "model": ask.target.public_name}
    if chat.is_legacy(ask.sent):
        shown = chat.as_function_call(shown)
    if ask.wants_usage:
        return {**shown, "usage": None if shown.get("choices") else shown.get("usage")}
    shown.pop("usage", None)
    return shown if shown.get("choices") else None


def _keep(context: Context, ask: Ask, usage: Json, answer: Json | None) -> None:
    context.meter.settle(ask.ticket, model=ask.target.weights_name, usage=for_ledger(usage))
    if not ask.is_stored or answer is None or "id" not in answer:
        return
    stored = StoredCompletion(
        id=answer["id"],
        project_id=ask.ticket.caller.project_id,
        created_at=int(answer.get("created") or context.now()),
        model=ask.target.public_name,
        request=without_nul(ask.sent),
        response=without_nul(answer),
        metadata=without_nul(ask.sent.get("metadata")),
    )
    with write(context.database) as conn:
        if ask.sent.get("store") is True or _fits(conn, context, stored):
            completions.insert_completion(conn, stored)


def _fits(conn: Connection, context: Context, stored: StoredCompletion) -> bool:
    """Nobody asked to keep what is passed on: when there is no room for it, it is passed on all the same."""
    num_bytes = completions.num_bytes(stored)
    try:
        check_storage(conn, context.settings, stored.project_id, num_bytes, now=context.clock(), param="store")
    except InvalidRequest:
        return False
    return True


async def _abandon(context: Context, ask: Ask) -> None:
    """Shielded: it also runs when the client's going away cancels the request."""
    await asyncio.shield(asyncio.to_thread(context.meter.abandon, ask.ticket))
