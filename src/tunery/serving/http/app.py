"""Routes of the engine. Each parses, calls one function of chat or completions, and writes what that returns."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tunery.domain.errors import InvalidRequest, NotFound, ServerFault, TuneryError, no_such_model
from tunery.domain.json_body import read_json
from tunery.serving.http import chat, completions
from tunery.serving.http.broker import engine_down
from tunery.serving.http.door import Door, adapter_folder
from tunery.serving.http.embeddings import MAX_INPUT_TOKENS
from tunery.serving.http.schemas import (
    AbortRequests,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LoadAdapter,
    TokenizeRequest,
    UnloadAdapter,
    as_sent,
)
from tunery.serving.http.service import Service
from tunery.serving.http.tool_use import shown_tool
from tunery.texts import say
from tunery.wire.stream import DONE, ClientGone, while_connected, write_event
from tunery.wire.validation import from_problems

log = logging.getLogger(__name__)

_STARTED_AT = int(time.time())

Wanted = TypeVar("Wanted", bound=BaseModel)

# What the api takes is at most half as large; written anew, its numbers may take more room.
MAX_BODY_BYTES = 16 * 1024 * 1024

Chunks = AsyncIterator[list[dict[str, Any]]]


def create_app(service: Service) -> Starlette:
    routes = Routes(service)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", routes.chat, methods=["POST"]),
            Route("/v1/completions", routes.completions, methods=["POST"]),
            Route("/v1/embeddings", routes.embeddings, methods=["POST"]),
            Route("/v1/load_lora_adapter", routes.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", routes.unload, methods=["POST"]),
            Route("/abort_requests", routes.abort, methods=["POST"]),
            Route("/v1/models", routes.models),
            Route("/tokenize", routes.tokenize, methods=["POST"]),
            Route("/health", routes.health),
            Route("/load", routes.load_now),
            Route("/metrics", routes.metrics),
        ],
        exception_handlers={TuneryError: _on_error, HTTPException: _on_http_error, Exception: _on_crash},
        middleware=[Middleware(Door, key=service.api_key, host=service.host)],
    )
    return app


def _json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, "application/json")


def _on_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, TuneryError)
    return _json(exc.body(), exc.status, exc.headers | exc.text_header())


def _on_http_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    error = NotFound if exc.status_code == 404 else InvalidRequest
    return _json(error(f"Invalid URL ({request.method} {request.url.path})").body(), exc.status_code)


def _on_crash(request: Request, exc: Exception) -> Response:
    log.error("a request failed", exc_info=exc)
    return _on_error(request, ServerFault(say("error.engine_failed")))


class Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def chat(self, request: Request) -> Response:
        """Raises InvalidRequest."""
        accepted = await chat.prepare(self._service, parse(ChatRequest, await read_body(request)))
        if accepted.request.stream:
            return await _event_stream(chat.stream(self._service, accepted))
        return await _whole(request, chat.complete(self._service, accepted))

    async def completions(self, request: Request) -> Response:
        """Raises InvalidRequest."""
        accepted = completions.prepare(self._service, parse(CompletionRequest, await read_body(request)))
        if accepted.request.stream:
            return await _event_stream(completions.stream(self._service, accepted))
        return await _whole(request, completions.complete(self._service, accepted))

    async def embeddings(self, request: Request) -> Response:
        """Raises InvalidRequest."""
        wanted = parse(EmbeddingRequest, await read_body(request))
        if self._service.embeddings is None:
            raise no_such_model(wanted.model)
        return await _whole(request, self._service.embeddings.answer(wanted))

    async def load(self, request: Request) -> Response:
        """Load an adapter, or wait for who does. Raises InvalidRequest."""
        wanted = parse(LoadAdapter, await read_body(request))
        if wanted.lora_name in self._service.base_names:
            raise InvalidRequest(f"{wanted.lora_name!r} is the base model's name.", param="lora_name")
        folder = adapter_folder(wanted.lora_path, self._service.adapters_below)
        future = self._service.engine.load(wanted.lora_name, folder)
        await asyncio.wrap_future(future)
        return Response(f"Success: LoRA adapter '{wanted.lora_name}' added successfully.", media_type="text/plain")

    async def unload(self, request: Request) -> Response:
        """Raises InvalidRequest."""
        wanted = parse(UnloadAdapter, await read_body(request))
        await asyncio.wrap_future(self._service.engine.unload(wanted.lora_name))
        return Response(f"Success: LoRA adapter '{wanted.lora_name}' removed successfully.", media_type="text/plain")

    async def abort(self, request: Request) -> Response:
        """Requests that run end now: their answers come as far as they are, with the usage until then.
        Raises InvalidRequest."""
        wanted = parse(AbortRequests, await read_body(request))
        service = self._service
        known = [
            each
            for each in wanted.request_ids
            if service.broker.abort(service.engine, each)
            or (service.embeddings is not None and service.embeddings.abort(each))
        ]
        return _json({"aborted": known})

    async def models(self, request: Request) -> Response:
        base = self._service.base_names[0]
        cards = [_card(name, None, self._service.engine.context_length) for name in self._service.base_names]
        cards += [
            _card(name, base, self._service.engine.context_length) for name in sorted(self._service.engine.adapters)
        ]
        embeddings = self._service.embeddings
        cards += [_card(name, None, MAX_INPUT_TOKENS) for name in (embeddings.names if embeddings else ())]
        return _json({"object": "list", "data": cards})

    async def tokenize(self, request: Request) -> Response:
        """Ids of a text or of messages. Raises InvalidRequest."""
        wanted = parse(TokenizeRequest, await read_body(request))
        renderer = self._service.renderer
        if wanted.messages is not None:
            self._service.check_size(sum(map(chat.size_of, wanted.messages)), param="messages")
            tools = [shown_tool(tool.function) for tool in wanted.tools or ()]
            ask = wanted.add_generation_prompt
            ids = renderer.prompt_ids(as_sent(wanted.messages), tools or None, add_generation_prompt=ask)
        elif wanted.prompt is not None:
            ids = renderer.encode(wanted.prompt)
        else:
            raise InvalidRequest("Give 'prompt' or 'messages'.", param="prompt", code="missing_required_parameter")
        return _json({"count": len(ids), "max_model_len": self._service.engine.context_length, "tokens": ids})

    async def health(self, request: Request) -> Response:
        if not self._service.engine.is_alive:
            raise engine_down()
        return Response(status_code=200)

    async def load_now(self, request: Request) -> Response:
        """How many requests run, as vLLM says it, and for how long there has been none."""
        load = self._service.broker.load
        return _json({"server_load": load.num_running, "idle_s": load.idle_s})

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.engine.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _card(name: str, parent: str | None, context_length: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": _STARTED_AT,
        "owned_by": "tunery",
        "parent": parent,
        "max_model_len": context_length,
    }


async def _whole(request: Request, answer: Coroutine[Any, Any, dict[str, Any]]) -> Response:
    """The answer as JSON. When the client goes away first, the work is cancelled, which aborts it in the engine."""
    work = asyncio.create_task(answer)
    try:
        return _json(await while_connected(request, work))
    except ClientGone:
        return Response(status_code=499)
    finally:
        work.cancel()


async def _event_stream(chunks: Chunks) -> Response:
    """Server-sent events. What goes wrong before the first chunk is a plain error; after it, an error event."""
    first = await anext(chunks)
    return StreamingResponse(
        _events(first, chunks), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
    )


async def _events(first: list[dict[str, Any]], chunks: Chunks) -> AsyncIterator[bytes]:
    try:
        yield b"".join(map(write_event, first))
        async for some in chunks:
            yield b"".join(map(write_event, some))
    except TuneryError as exc:
        yield write_event(exc.body_with_text())
    except Exception:
        log.exception("a stream failed")
        yield write_event(ServerFault(say("error.engine_failed")).body_with_text())
    finally:
        await chunks.aclose()  # type: ignore[attr-defined] - async generators have it
    yield DONE


async def read_body(request: Request) -> bytes:
    """Raises InvalidRequest (413) as soon as there is, or is to come, more than MAX_BODY_BYTES."""
    declared = request.headers.get("content-length", "")
    body = bytearray()
    if declared.isdecimal() and int(declared[:19]) > MAX_BODY_BYTES:
        raise _too_large()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> InvalidRequest:
    limit = f"{MAX_BODY_BYTES // 1024**2} MB"
    error = InvalidRequest(say("error.request_too_large", size=limit), code="request_too_large")
    error.status = 413
    return error


def parse(kind: type[Wanted], body: bytes) -> Wanted:
    """Raises InvalidRequest with the `param` and `code` that OpenAI gives."""
    document = read_json(body)
    if not isinstance(document, dict):
        raise InvalidRequest("We could not parse the JSON body of your request: it must be an object.")
    try:
        return kind.model_validate(document)
    except ValidationError as exc:
        raise from_problems(exc.errors()) from exc
