"""Completions that a client asked to keep (`store: true`): list, read, relabel, delete."""

from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict

from tunery.api.access import ModelsReader, ModelsUser
from tunery.api.body import Body
from tunery.api.context import ContextDep
from tunery.api.metadata import METADATA_PARAMETER, Metadata, metadata_filter
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.routing import Router
from tunery.domain.completions import StoredCompletion
from tunery.store import completions
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.store.paging import Page

router = Router(prefix="/v1/chat/completions", tags=["Stored completions"])

Order = Literal["asc", "desc"]


class CompletionUpdate(Body):
    metadata: Metadata | None


class DeletedCompletion(BaseModel):
    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    id: str
    deleted: bool = True


class StoredMessage(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str
    role: str
    content: str | None
    refusal: str | None = None
    content_parts: list[dict[str, Any]] | None


class StoredCompletionOut(BaseModel):
    """The completion as it was answered, with the metadata of today."""

    model_config = ConfigDict(extra="allow")

    object: Literal["chat.completion"] = "chat.completion"
    id: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    metadata: dict[str, str] | None


def wire_completion(completion: StoredCompletion) -> StoredCompletionOut:
    sampling = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "tools", "tool_choice")
    return StoredCompletionOut.model_validate(
        {
            **completion.response,
            "object": "chat.completion",
            "id": completion.id,
            "created": completion.created_at,
            "model": completion.model,
            "metadata": completion.metadata,
            **{name: completion.request[name] for name in sampling if name in completion.request},
        }
    )


def wire_message(completion: StoredCompletion, index: int) -> StoredMessage:
    message = completion.request["messages"][index]
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    text = "".join(part.get("text", "") for part in parts) if parts else content
    return StoredMessage.model_validate(
        {**message, "id": f"{completion.id}-{index}", "content": text, "content_parts": parts}
    )


@router.get("", openapi_extra=METADATA_PARAMETER)
def list_completions(
    request: Request,
    caller: ModelsReader,
    context: ContextDep,
    model: Annotated[str | None, Query(max_length=256)] = None,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> CursorListing[StoredCompletionOut]:
    wanted = metadata_filter(request.query_params)
    pairs = wanted if isinstance(wanted, dict) else None
    with read(context.database) as conn:
        page = completions.list_completions(
            conn, caller.project_id, model=model, metadata=pairs, after=after, limit=limit, order=order
        )
    return CursorListing[StoredCompletionOut].of(page, wire_completion)


@router.get("/{completion_id}")
def retrieve_completion(completion_id: str, caller: ModelsReader, context: ContextDep) -> StoredCompletionOut:
    with read(context.database) as conn:
        return wire_completion(completions.get_completion(conn, completion_id, caller.project_id))


@router.post("/{completion_id}")
def update_completion(
    completion_id: str, body: CompletionUpdate, caller: ModelsUser, context: ContextDep
) -> StoredCompletionOut:
    with write(context.database) as conn:
        changed = completions.update_completion_metadata(conn, completion_id, caller.project_id, body.metadata)
        record(conn, caller, "chat.completion.updated", now=context.clock(), resource_id=completion_id)
    return wire_completion(changed)


@router.delete("/{completion_id}")
def delete_completion(completion_id: str, caller: ModelsUser, context: ContextDep) -> DeletedCompletion:
    with write(context.database) as conn:
        completions.delete_completion(conn, completion_id, caller.project_id)
        record(conn, caller, "chat.completion.deleted", now=context.clock(), resource_id=completion_id)
    return DeletedCompletion(id=completion_id)


@router.get("/{completion_id}/messages")
def list_messages(
    completion_id: str,
    caller: ModelsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    order: Order = "asc",
) -> CursorListing[StoredMessage]:
    """The messages of the request."""
    with read(context.database) as conn:
        completion = completions.get_completion(conn, completion_id, caller.project_id)
    messages = [wire_message(completion, index) for index in range(len(completion.request["messages"]))]
    page = page_of(messages if order == "asc" else messages[::-1], after, limit)
    return CursorListing[StoredMessage].of(page, lambda message: message)


def page_of(items: list[StoredMessage], after: str | None, limit: int) -> Page[StoredMessage]:
    start = 0
    if after is not None:
        ids = [item.id for item in items]
        start = ids.index(after) + 1 if after in ids else len(items)
    return Page(tuple(items[start : start + limit]), limit > 0 and start + limit < len(items))
