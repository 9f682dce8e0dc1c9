"""Responses: create them, whole, streamed or in the background, and what can be done with those that are kept."""

from functools import partial
from typing import Annotated, Any, Literal

import orjson
from fastapi import Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from tunery.api import delivery
from tunery.api.access import ModelsReader, ModelsUser
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.responses import background, service
from tunery.api.responses.schemas import DeletedResponse, InputTokens, Item, Prompt, ResponseRequest
from tunery.api.routing import Router
from tunery.domain.errors import InvalidRequest
from tunery.domain.responses import StoredResponse
from tunery.domain.tenants import Caller, Scope
from tunery.store import responses
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.texts import say

router = Router(prefix="/v1/responses", tags=["Responses"])

Order = Literal["asc", "desc"]
StartingAfter = Annotated[
    int, Query(ge=-1, lt=2**63, description="The sequence number of the last event that is known.")
]
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The response, or a stream of its events.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}


@router.post("", response_class=Response, responses=ANSWER)
@takes_up_to(MAX_PROMPT_BYTES)
async def create_response(body: ResponseRequest, request: Request, caller: ModelsUser, context: ContextDep) -> Response:
    sent = body.sent()
    pending = await service.admit(context, caller, delivery.request_ids(request, sent), sent)
    if sent.get("background"):
        response = await background.begin(context, pending)
        if not sent.get("stream"):
            return _whole(response, pending.admitted.headers)
        found = service.stored(pending, response)
        return _events(context, caller, Scope.MODELS_REQUEST, found, headers=pending.admitted.headers)
    if sent.get("stream"):
        as_event = partial(service.in_an_event, pending)
        return await delivery.streamed(request, context, pending.admitted, service.stream(context, pending), as_event)
    return await delivery.whole(request, context, pending.admitted, service.complete(context, pending))


@router.post("/input_tokens")
@takes_up_to(MAX_PROMPT_BYTES)
async def count_input_tokens(body: Prompt, caller: ModelsUser, context: ContextDep) -> InputTokens:
    return InputTokens(input_tokens=await service.count_input(context, caller, body.sent()))


@router.get("/{response_id}", response_class=Response, responses=ANSWER)
async def retrieve_response(
    response_id: str,
    caller: ModelsReader,
    context: ContextDep,
    stream: bool = False,
    starting_after: StartingAfter = -1,
) -> Response:
    found, response = await run_in_threadpool(_read, context, caller, response_id)
    if stream:
        return _events(context, caller, Scope.MODELS_READ, found, starting_after)
    return _whole(response)


@router.delete("/{response_id}")
def delete_response(response_id: str, caller: ModelsUser, context: ContextDep) -> DeletedResponse:
    with write(context.database) as conn:
        responses.delete_response(conn, response_id, caller.project_id)
        record(conn, caller, "response.deleted", now=context.clock(), resource_id=response_id)
    return DeletedResponse(id=response_id)


@router.post("/{response_id}/cancel", response_class=Response, responses=ANSWER)
def cancel_response(response_id: str, caller: ModelsUser, context: ContextDep) -> Response:
    """Of one that is answered in the background. One that has ended stays as it is."""
    found, response = _read(context, caller, response_id)
    if not found.is_background:
        raise InvalidRequest(say("error.response_not_cancelled"))
    if not found.has_ended:
        background.cancel(context, found)
        _, response = _read(context, caller, response_id)
    return _whole(response)


@router.get("/{response_id}/input_items")
def list_input_items(
    response_id: str,
    caller: ModelsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    order: Order = "desc",
) -> CursorListing[Item]:
    """Its own input, without what came before it."""
    with read(context.database) as conn:
        responses.get_response(conn, response_id, caller.project_id)
        page = responses.input_page(conn, response_id, after=after, limit=limit, descending=order == "desc")
    return CursorListing[Item].of(page, Item.model_validate)


def _read(context: Context, caller: Caller, response_id: str) -> tuple[StoredResponse, dict[str, Any]]:
    with read(context.database) as conn:
        found = responses.get_response(conn, response_id, caller.project_id)
        output = responses.items_of(conn, response_id, direction="output")
    if background.is_left_alone(context, found):
        background.end_left_alone(context)
        return _read(context, caller, response_id)
    return found, {**found.body, "status": found.status, "output": output}


def _whole(response: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(response), media_type="application/json", headers=headers)


def _events(
    context: Context,
    caller: Caller,
    scope: Scope,
    found: StoredResponse,
    after: int = -1,
    headers: dict[str, str] | None = None,
) -> StreamingResponse:
    events = background.follow(context, caller, scope, found, after)
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
