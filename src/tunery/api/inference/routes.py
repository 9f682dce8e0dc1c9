import hashlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

from tunery.api.auth import ModelsUser
from tunery.api.inference import service
from tunery.api.inference.disconnect import ClientGone, while_connected
from tunery.api.inference.schemas import ChatRequest, CompletionRequest
from tunery.api.services import Services, ServicesDep
from tunery.domain.tenants import Caller
from tunery.metering.ledger import RequestIds

router = APIRouter(tags=["Inference"])

CLIENT_CLOSED_REQUEST = 499  # nobody reads it; the log line has it
MAX_CLIENT_ID = 200
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The completion, or a stream of its chunks that ends with `data: [DONE]`.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}


@router.post("/v1/chat/completions", response_class=Response, responses=ANSWER)
async def create_chat_completion(
    body: ChatRequest, request: Request, caller: ModelsUser, services: ServicesDep
) -> Response:
    return await answer(request, services, caller, "chat", body.sent())


@router.post("/v1/completions", response_class=Response, responses=ANSWER)
async def create_completion(
    body: CompletionRequest, request: Request, caller: ModelsUser, services: ServicesDep
) -> Response:
    return await answer(request, services, caller, "completion", body.sent())


async def answer(
    request: Request, services: Services, caller: Caller, kind: service.Kind, sent: dict[str, Any]
) -> Response:
    ask = await service.admit(services, caller, request_ids(request, sent), kind, sent)
    delivered = BackgroundTask(_run_inline, services, ask)
    try:
        if sent.get("stream"):
            events = service.stream(services, ask)
            first = await while_connected(request, partial(anext, events, b""))
            return StreamingResponse(
                follow(first, events), media_type="text/event-stream", headers=ask.headers, background=delivered
            )
        result = await while_connected(request, partial(service.complete, services, ask))
    except ClientGone:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return Response(orjson.dumps(result), media_type="application/json", headers=ask.headers, background=delivered)


async def _run_inline(services: Services, ask: service.Ask) -> None:
    services.meter.delivered(ask.ticket)


async def follow(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in rest:
        yield event


def request_ids(request: Request, sent: dict[str, Any]) -> RequestIds:
    """The client's own id, when it sends one: a retry after a lost answer is then charged once.

    What was asked is a part of it: under one id, another question is another request, however the first one ended.
    """
    client = request.headers.get("idempotency-key") or request.headers.get("x-client-request-id")
    if not client:
        return RequestIds(request.state.request_id)
    digest = hashlib.sha256(orjson.dumps(sent)).hexdigest()[:16]
    return RequestIds(request.state.request_id, f"{client[:MAX_CLIENT_ID]} {digest}")
