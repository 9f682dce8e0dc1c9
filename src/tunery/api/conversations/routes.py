"""Conversations and their items."""

from typing import Annotated, Any, Literal

from fastapi import Query
from sqlalchemy import Connection

from tunery.api.access import ModelsReader, ModelsUser
from tunery.api.body import MAX_PROMPT_BYTES, takes_up_to
from tunery.api.context import Context, ContextDep
from tunery.api.paging import After, CursorListing, Limit
from tunery.api.responses.schemas import (
    ConversationOut,
    ConversationUpdate,
    DeletedConversation,
    Item,
    NewConversation,
    NewItems,
)
from tunery.api.routing import Router
from tunery.domain.ids import new_id
from tunery.domain.responses import Conversation
from tunery.domain.tenants import Caller
from tunery.metering.storage import claim_storage
from tunery.store import conversations, responses
from tunery.store.audit import record
from tunery.store.database import read, write
from tunery.store.paging import Page
from tunery.wire.responses.items import check_ids, read_items, references, resolved

router = Router(prefix="/v1/conversations", tags=["Conversations"])

Order = Annotated[Literal["asc", "desc"], Query()]


@router.post("")
@takes_up_to(MAX_PROMPT_BYTES)
def create_conversation(body: NewConversation, caller: ModelsUser, context: ContextDep) -> ConversationOut:
    made = Conversation(new_id("conversation"), caller.project_id, context.now(), body.metadata)
    with write(context.database) as conn:
        conversations.insert_conversation(conn, made)
        _add(conn, context, caller, made.id, body.items or [])
    return _out(made)


@router.get("/{conversation_id}")
def retrieve_conversation(conversation_id: str, caller: ModelsReader, context: ContextDep) -> ConversationOut:
    with read(context.database) as conn:
        return _out(conversations.get_conversation(conn, conversation_id, caller.project_id))


@router.post("/{conversation_id}")
def update_conversation(
    conversation_id: str, body: ConversationUpdate, caller: ModelsUser, context: ContextDep
) -> ConversationOut:
    with write(context.database) as conn:
        changed = conversations.update_conversation(conn, conversation_id, caller.project_id, body.metadata)
        record(conn, caller, "conversation.updated", now=context.clock(), resource_id=conversation_id)
    return _out(changed)


@router.delete("/{conversation_id}")
def delete_conversation(conversation_id: str, caller: ModelsUser, context: ContextDep) -> DeletedConversation:
    """Its items can still be referred to, for as long as responses are kept."""
    with write(context.database) as conn:
        conversations.delete_conversation(conn, conversation_id, caller.project_id)
        record(conn, caller, "conversation.deleted", now=context.clock(), resource_id=conversation_id)
    return DeletedConversation(id=conversation_id)


@router.post("/{conversation_id}/items")
@takes_up_to(MAX_PROMPT_BYTES)
def create_items(conversation_id: str, body: NewItems, caller: ModelsUser, context: ContextDep) -> CursorListing[Item]:
    with write(context.database) as conn:
        conversations.get_conversation(conn, conversation_id, caller.project_id)
        added = _add(conn, context, caller, conversation_id, body.items)
    return CursorListing[Item].of(Page(tuple(added)), Item.model_validate)


@router.get("/{conversation_id}/items")
def list_items(
    conversation_id: str,
    caller: ModelsReader,
    context: ContextDep,
    after: After = None,
    limit: Limit = 20,
    order: Order = "desc",
) -> CursorListing[Item]:
    with read(context.database) as conn:
        conversations.get_conversation(conn, conversation_id, caller.project_id)
        page = conversations.item_page(conn, conversation_id, after=after, limit=limit, descending=order == "desc")
    return CursorListing[Item].of(page, Item.model_validate)


@router.get("/{conversation_id}/items/{item_id}")
def retrieve_item(conversation_id: str, item_id: str, caller: ModelsReader, context: ContextDep) -> Item:
    with read(context.database) as conn:
        conversations.get_conversation(conn, conversation_id, caller.project_id)
        return Item.model_validate(conversations.get_item(conn, conversation_id, item_id))


@router.delete("/{conversation_id}/items/{item_id}")
def delete_item(conversation_id: str, item_id: str, caller: ModelsUser, context: ContextDep) -> ConversationOut:
    with write(context.database) as conn:
        conversation = conversations.get_conversation(conn, conversation_id, caller.project_id)
        conversations.remove_item(conn, conversation_id, item_id)
        record(conn, caller, "conversation.item.deleted", now=context.clock(), resource_id=item_id)
    return _out(conversation)


def _add(
    conn: Connection, context: Context, caller: Caller, conversation_id: str, sent: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    items = read_items(sent, "items")
    items = resolved(items, responses.find_items(conn, caller.project_id, references(items)))
    check_ids(items, "items", conversations.held(conn, conversation_id, [item["id"] for item in items]))
    num_bytes = sum(map(responses.num_bytes, items))
    claim_storage(conn, context.settings, caller.project_id, num_bytes, now=context.clock(), param="items")
    responses.add_items(conn, caller.project_id, items, context.now(), conversation_id=conversation_id)
    return items


def _out(conversation: Conversation) -> ConversationOut:
    return ConversationOut(id=conversation.id, created_at=conversation.created_at, metadata=conversation.metadata or {})
