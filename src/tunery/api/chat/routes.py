"""Chat completions and legacy completions. Requests are open: `wire.chat` says what becomes of each key."""

from typing import Annotated, Any, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tunery.api import inference
from tunery.api.access import ModelsUser
from tunery.api.body import MAX_PROMPT_BYTES, no_nul, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.delivery import request_ids, streamed, whole
from tunery.api.metadata import Metadata
from tunery.api.routing import Router
from tunery.domain.errors import TuneryError
from tunery.domain.numbers import whole_number
from tunery.domain.tenants import Caller
from tunery.wire.chat import MAX_MESSAGES
from tunery.wire.stream import write_event

router = Router(tags=["Inference"])

ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The completion, or a stream of its chunks that ends with `data: [DONE]`.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}


ModelName = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(no_nul)]


class Sent(BaseModel):
    """The keys that the API itself reads. All others go on to the engine, which checks them."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: ModelName

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, values: Any) -> Any:
        """Of every parameter and of token ids: limits and ledger count with them, too."""
        return {name: whole_number(value) for name, value in values.items()} if isinstance(values, dict) else values

    def sent(self) -> dict[str, Any]:
        """What the client sent, and nothing that it did not."""
        return self.model_dump(exclude_unset=True)


class ChatRequest(Sent):
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    functions: list[dict[str, Any]] | None = Field(None, max_length=128)
    function_call: Literal["none", "auto"] | dict[str, Any] | None = None


class CompletionRequest(Sent):
    prompt: str | list[str] | list[int] | list[list[int]] = ""
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None


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
    request: Request, context: Context, caller: Caller, kind: inference.Kind, sent: dict[str, Any]
) -> Response:
    admitted = await inference.admit(context, caller, request_ids(request, sent), kind, sent)
    if sent.get("stream"):
        return await streamed(request, context, admitted, inference.stream(context, admitted), in_a_chunk)
    return await whole(request, context, admitted, inference.complete(context, admitted))


def in_a_chunk(error: TuneryError) -> bytes:
    return write_event(error.body_with_text())
