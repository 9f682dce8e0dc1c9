"""Vectors of texts. Apart because app.py only joins routers, and chats, the nearest, share none of this body."""

from typing import Any, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import Field

from tunery.api import inference
from tunery.api.access import ModelsUser
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.chat.routes import Sent
from tunery.api.context import ContextDep
from tunery.api.delivery import request_ids, whole
from tunery.api.routing import Router
from tunery.wire.embeddings import Input

router = Router(tags=["Inference"])

ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A vector for each input, in their order.",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


class EmbeddingRequest(Sent):
    input: Input = Field(description="Text or token ids, one or several. Ids are read as `cl100k_base`'s.")
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


@router.post("/v1/embeddings", response_class=Response, responses=ANSWER)
@takes_up_to(MAX_PROMPT_BYTES)
async def create_embeddings(
    body: EmbeddingRequest, request: Request, caller: ModelsUser, context: ContextDep
) -> Response:
    sent = body.sent()
    admitted = await inference.admit(context, caller, request_ids(request, sent), "embedding", sent)
    return await whole(request, context, admitted, inference.complete(context, admitted))
