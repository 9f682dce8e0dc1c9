import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import orjson
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tunery.api import inference as service
from tunery.api.access import ModelsUser
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.chat.schemas import ChatRequest, CompletionRequest
from tunery.api.context import Context, ContextDep
from tunery.api.routing import Router
from tunery.api.running import Running, Stream
from tunery.domain.errors import TuneryError
from tunery.domain.tenants import Caller
from tunery.metering.ledger import RequestIds
from tunery.wire.stream import ClientGone, while_connected, write_event

router = Router(tags=["Inference"])

CLIENT_CLOSED_REQUEST = 499  # nobody reads it; the log line has it
MAX_CLIENT_ID = 200
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The completion, or a stream of its chunks that ends with `data: [DONE]`.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}


@router.post("/v1/chat/completions", response_class=Response, responses=ANSWER)
@takes_up_to(MAX_PROMPT_BYTES)
async def create_chat_completion(
    body: ChatRequest, request: Request, caller: ModelsUser, context: ContextDep
) -> Response:
    return await answer(request, context, caller, "chat", body.sent())


@router.post("/v1/completions", response_class=Response, responses=ANSWER)
@takes_up_to(MAX_PROMPT_BYTES)
async def create_completion(
    body: CompletionRequest, request: Request, caller: ModelsUser, context: ContextDep
) -> Response:
    return await answer(request, context, caller, "completion", body.sent())


async def answer(
    request: Request, context: Context, caller: Caller, kind: service.Kind, sent: dict[str, Any]
) -> Response:
    ask = await service.admit(context, caller, request_ids(request, sent), kind, sent)
    if sent.get("stream"):
        return await _stream(request, context, ask)
    cut = asyncio.get_running_loop().create_future()
    task = context.shared(Running).answer(service.complete(context, ask), caller, partial(fail, cut))
    leave = partial(service.leave, context, ask, task)
    try:
        result = await while_connected(request, task, cut)
    except BaseException as exc:
        leave()
        if isinstance(exc, ClientGone):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        raise
    return Watched(Response(orjson.dumps(result), media_type="application/json", headers=ask.headers), leave)


def fail(cut: asyncio.Future[Any], error: TuneryError) -> None:
    if not cut.done():
        cut.set_exception(error)


async def _stream(request: Request, context: Context, ask: service.Ask) -> Response:
    events = Stream()
    told = service.stream(context, ask, lambda: events.is_left)
    task = context.shared(Running).answer(
        events.pump(told), ask.ticket.caller, lambda error: events.cut(write_event(error.body()))
    )
    taking = asyncio.create_task(events.take())

    def leave() -> None:
        taking.cancel()
        events.leave()
        service.leave(context, ask, task)

    try:
        first = await while_connected(request, taking)
        if first is None:
            await task  # raises why
    except BaseException as exc:
        leave()
        if isinstance(exc, ClientGone):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        raise
    return Watched(
        StreamingResponse(_follow(first, events, task), media_type="text/event-stream", headers=ask.headers), leave
    )


async def _follow(first: bytes | None, events: Stream, task: asyncio.Task[None]) -> AsyncIterator[bytes]:
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._leave()


def request_ids(request: Request, sent: dict[str, Any]) -> RequestIds:
    """The client's own id, when it sends one: a retry after a lost answer is then charged once.

    What was asked is a part of it: under one id, another question is another request, however the first one ended.
    """
    client = request.headers.get("idempotency-key") or request.headers.get("x-client-request-id")
    if not client:
        return RequestIds(request.state.request_id)
    digest = hashlib.sha256(orjson.dumps(sent)).hexdigest()[:16]
    return RequestIds(request.state.request_id, f"{client[:MAX_CLIENT_ID]} {digest}")
