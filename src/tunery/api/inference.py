"""One completion, or one request for embeddings, from the request to the ledger."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import orjson
from sqlalchemy import Connection

from tunery.api.context import Context
from tunery.domain.completions import StoredCompletion
from tunery.domain.errors import InvalidRequest
from tunery.domain.schemas import check_cost, request_schemas
from tunery.domain.tenants import Caller
from tunery.engines.http import Answer, EngineLost
from tunery.engines.pool import Target, resolve
from tunery.metering.ledger import RequestIds
from tunery.metering.meter import Admission
from tunery.metering.rates import Subjects, has_rates
from tunery.metering.storage import Room, check_not_full, check_storage
from tunery.store import completions
from tunery.store.database import read
from tunery.texts import say
from tunery.wire import chat, embeddings
from tunery.wire.chat import (
    CHAT,
    COMPLETIONS,
    Assembly,
    Parameter,
    check,
    completed,
    estimated_tokens,
    for_ledger,
    uncounted,
)
from tunery.wire.stream import DONE, read_events, write_event

Json = dict[str, Any]
Kind = Literal["chat", "completion", "embedding"]
Keep = Callable[[Connection, Json], None]  # writes an answer, or its usage, in the transaction that counts it
PATHS: dict[Kind, str] = {
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
    "embedding": "/v1/embeddings",
}
PARAMETERS: dict[Kind, Mapping[str, Parameter]] = {
    "chat": CHAT,
    "completion": COMPLETIONS,
    "embedding": embeddings.EMBEDDINGS,
}
NOT_FOR_THE_ENGINE = ("store", "metadata", "modalities")
BATCH_PRIORITY = 1  # live requests have 0, which goes first


@dataclass(frozen=True)
class InferenceRequest:
    """A request that may go to the engine: checked, resolved, let in."""

    kind: Kind
    sent: Json  # as received
    forwarded: Json  # for the engine
    target: Target
    admission: Admission
    room: Room | None = None  # for what will be kept of the request
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # set when nobody waits for the answer any more

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
        return {**self.admission.headers, "x-tunery-model": self.target.weights_name}


async def admit(
    context: Context,
    caller: Caller,
    ids: RequestIds,
    kind: Kind,
    sent: Json,
    *,
    keeps: bool | None = None,
    is_batch: bool = False,
) -> InferenceRequest:
    """`keeps`: whether the answer will be stored, where not `store` says so. `is_batch`: it gives way to others.

    Raises InvalidRequest for parameters, NotFound for the model, RateLimited for limits and budget.
    """
    forwarded = check(sent, PARAMETERS[kind])
    if kind == "embedding":
        embeddings.check_input(sent["input"])
    if chat.is_legacy(forwarded):
        forwarded = chat.as_tools(forwarded)
    for name in NOT_FOR_THE_ENGINE:
        forwarded.pop(name, None)
    if forwarded.get("stream"):
        forwarded["stream_options"] = {"include_usage": True}
    # Blocks of the prefix cache are never shared between projects: what is cached tells what was asked.
    forwarded["cache_salt"] = caller.project_id
    forwarded["request_id"] = ids.server
    if is_batch:
        forwarded["priority"] = BATCH_PRIORITY
    check_cost(request_schemas(sent))
    if keeps is None:
        keeps = kind == "chat" and sent.get("store") is True
    num_kept = len(orjson.dumps(sent)) if keeps else 0
    target, subjects, ids = await context.look(partial(_look, context, caller, ids, kind, sent, is_batch))
    if kind == "embedding" and target.upstream is None:
        forwarded = await asyncio.to_thread(embeddings.for_engine, forwarded)
    tokens = estimated_tokens(sent, target.base.context_length if target.base else None)
    let_in = partial(
        context.meter.let_in,
        caller,
        ids,
        subjects,
        model=target.weights_name,
        estimated_tokens=tokens,
        is_batch=is_batch,
    )
    has_limit = bool(subjects[caller.project_id].max_storage_bytes)
    room = await asyncio.to_thread(_take_room, context, caller, num_kept) if num_kept and has_limit else None
    try:
        admission = await asyncio.to_thread(let_in) if has_rates(subjects) else let_in()
    except BaseException:
        await _close(room)
        raise
    return InferenceRequest(kind, sent, forwarded, target, admission, room)


def _look(
    context: Context, caller: Caller, ids: RequestIds, kind: Kind, sent: Json, is_batch: bool
) -> tuple[Target, Subjects, RequestIds]:
    with read(context.database) as conn:
        target = resolve(conn, context.catalog, sent["model"], caller.project_id)
        _check_kind(target, kind, sent)
        if target.upstream is not None:
            generates = kind != "embedding"
            context.prices.check_upstream(target.upstream, context.clock(), param="model", generates=generates)
        subjects = context.meter.look(conn, caller)
        if is_batch:  # what it comes to is kept
            check_not_full(conn, caller.project_id, subjects[caller.project_id], now=context.clock())
        return target, subjects, context.meter.find_lost(conn, caller, ids)


def _take_room(context: Context, caller: Caller, num_bytes: int) -> Room:
    """Held until the answer is kept, so that requests at once do not pass the limit by what they bring. The answer's
    own bytes are not known yet: each request that runs may go past it by those. Raises InvalidRequest."""
    project_id, param = caller.project_id, "store"
    room = Room(context.database, context.blobs, context.settings, context.clock, project_id, param, num_bytes)
    room.take(num_bytes)
    return room


async def _close(room: Room | None) -> None:
    if room is not None:
        await asyncio.shield(asyncio.to_thread(room.close))


def _check_kind(target: Target, kind: Kind, sent: Json) -> None:
    """Raises InvalidRequest for a model that does the other thing, and for more numbers than its vectors have."""
    size = target.base.dimensions if target.base else 0
    if target.upstream is None and (size > 0) != (kind == "embedding"):
        key = "error.model_does_not_embed" if kind == "embedding" else "error.model_only_embeds"
        raise InvalidRequest(say(key, model=target.public_name), param="model", code="unsupported_model")
    if kind == "embedding" and target.upstream is None and (sent.get("dimensions") or 0) > size:
        raise embeddings.too_many_dimensions(sent["dimensions"], size)


@asynccontextmanager
async def _asked(context: Context, admitted: InferenceRequest) -> AsyncIterator[Answer]:
    """The answer of the engine or the upstream, to be read in the block. Its errors name what the client sent."""
    backend = context.engines if admitted.target.upstream is None else context.upstream
    try:
        async with backend.post(PATHS[admitted.kind], admitted.forwarded, admitted.target) as given:
            yield given
    except InvalidRequest as exc:
        if chat.is_legacy(admitted.sent):
            exc.param = chat.own_param(exc.param)
        if admitted.kind == "embedding":
            embeddings.word_for_client(exc)
        raise


async def complete(context: Context, admitted: InferenceRequest, keep: Keep | None = None) -> Json:
    """The whole answer. The ledger has it before the client does. `keep`: the whole answer."""
    try:
        async with _asked(context, admitted) as given:
            answer = orjson.loads(await given.read())
        if admitted.kind == "embedding":
            answer = await asyncio.to_thread(embeddings.as_asked, answer, admitted.sent)
    except BaseException:
        await abandon(context, admitted)
        raise
    answer["model"] = admitted.target.public_name
    if admitted.kind != "embedding":
        answer["usage"] = completed(answer.get("usage") or {}, context.settings.cached_token_rule)
    if chat.is_legacy(admitted.sent):
        answer = chat.as_function_call(answer)
    await asyncio.to_thread(_settle, context, admitted, answer, keep)
    return answer


async def chunks(context: Context, admitted: InferenceRequest, keep: Keep | None = None) -> AsyncGenerator[Json]:
    """The answer in chunks, as the client is to see them; one with `error` is the last.

    Errors before the first chunk are raised, so that they still have their status; later ones can only be told in a
    chunk. The ledger has the usage before the chunk with the usage is given out. Read it to its end also when the
    client has gone. `keep`: the usage, once all else has been given out, unless there is none.
    """
    assembly = Assembly() if admitted.is_stored else None
    num_pieces = 0
    settled = False
    try:
        async with _asked(context, admitted) as given:
            async for chunk in read_events(given.chunks()):
                if "error" in chunk:
                    yield chunk
                    return
                num_pieces += len(chunk.get("choices", ()))
                if chunk.get("usage"):
                    chunk["usage"] = completed(chunk["usage"], context.settings.cached_token_rule)
                shown = _shown(admitted, chunk)
                if assembly is not None and shown is not None:
                    assembly.add(shown)
                if chunk.get("usage") and not chunk.get("choices"):
                    answer = {**(assembly.result() if assembly else {}), "usage": chunk["usage"]}
                    await asyncio.to_thread(_settle, context, admitted, answer, keep)
                    settled = True
                if shown is not None:
                    yield shown
        if not settled:  # who answered keeps no count
            usage = completed(uncounted(admitted.sent, num_pieces), context.settings.cached_token_rule)
            await asyncio.to_thread(_settle, context, admitted, {"usage": usage}, keep)
            settled = True
    except EngineLost as exc:
        yield exc.body_with_text()
    finally:
        if not settled:
            await abandon(context, admitted)


async def stream(context: Context, admitted: InferenceRequest) -> AsyncGenerator[bytes]:
    """The chunks as server-sent events."""
    async with aclosing(chunks(context, admitted)) as answer:
        async for chunk in answer:
            yield write_event(chunk)
            if "error" in chunk:
                return
    yield DONE


def _shown(admitted: InferenceRequest, chunk: Json) -> Json | None:
    """The chunk for the client; None for the one with only the usage when the client did not ask for it."""
    shown = {**chunk, "model": admitted.target.public_name}
    if chat.is_legacy(admitted.sent):
        shown = chat.as_function_call(shown)
    if admitted.wants_usage:
        return {**shown, "usage": None if shown.get("choices") else shown.get("usage")}
    shown.pop("usage", None)
    return shown if shown.get("choices") else None


def _settle(context: Context, admitted: InferenceRequest, answer: Json, keep: Keep | None) -> None:
    """In one transaction: what is counted is kept."""

    def also(conn: Connection) -> None:
        if admitted.room is not None:
            admitted.room.give_back(conn)
        if admitted.is_stored and "id" in answer:
            _store(conn, context, admitted, answer)
        if keep is not None:
            keep(conn, answer)

    usage = for_ledger(answer["usage"])
    context.meter.settle(admitted.admission, model=admitted.target.weights_name, usage=usage, keep=also)


def _store(conn: Connection, context: Context, admitted: InferenceRequest, answer: Json) -> None:
    stored = StoredCompletion(
        id=answer["id"],
        project_id=admitted.admission.caller.project_id,
        created_at=int(answer.get("created") or context.now()),
        model=admitted.target.public_name,
        request=admitted.sent,
        response=answer,
        metadata=admitted.sent.get("metadata"),
    )
    if admitted.sent.get("store") is True or _fits(conn, context, stored):
        completions.insert_completion(conn, stored)


def _fits(conn: Connection, context: Context, stored: StoredCompletion) -> bool:
    """Nobody asked to keep what is passed on: when there is no room for it, it is passed on all the same."""
    num_bytes = completions.num_bytes(stored)
    try:
        check_storage(conn, context.settings, stored.project_id, num_bytes, now=context.clock(), param="store")
    except InvalidRequest:
        return False
    return True


async def abandon(context: Context, admitted: InferenceRequest) -> None:
    """There will be no answer. Shielded: it also runs when the client's going away cancels the request."""
    await asyncio.shield(asyncio.to_thread(context.meter.abandon, admitted.admission))
    await _close(admitted.room)
