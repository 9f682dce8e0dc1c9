"""Conversations. Their items lie with those of responses (`store.responses`)."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from tunery.domain.errors import NotFound
from tunery.domain.responses import Conversation
from tunery.store.paging import Page, fetch_page, own, values_of
from tunery.store.responses import item_of
from tunery.store.tables import conversations, response_items
from tunery.texts import say

Json = dict[str, Any]


def insert_conversation(conn: Connection, conversation: Conversation) -> None:
    conn.execute(insert(conversations).values(asdict(conversation)))


def get_conversation(conn: Connection, conversation_id: str, project_id: str) -> Conversation:
    row = conn.execute(select(conversations).where(*own(conversations, conversation_id, project_id))).first()
    if row is None:
        raise no_such_conversation(conversation_id)
    return Conversation(**values_of(row, "used_by", "used_until"))


def update_conversation(
    conn: Connection, conversation_id: str, project_id: str, metadata: dict[str, str] | None
) -> Conversation:
    statement = update(conversations).where(*own(conversations, conversation_id, project_id)).values(metadata=metadata)
    if conn.execute(statement).rowcount == 0:
        raise no_such_conversation(conversation_id)
    return get_conversation(conn, conversation_id, project_id)


def delete_conversation(conn: Connection, conversation_id: str, project_id: str) -> None:
    """Its items stay for what refers to them, until the janitor finds them too old. Raises NotFound."""
    if conn.execute(delete(conversations).where(*own(conversations, conversation_id, project_id))).rowcount == 0:
        raise no_such_conversation(conversation_id)


def lock_conversation(
    conn: Connection, conversation_id: str, project_id: str, user: str, *, now: float, until: float
) -> bool:
    """Nobody else answers in it until it is given back, or `until`. False: somebody does. Raises NotFound."""
    table = conversations
    get_conversation(conn, conversation_id, project_id)
    free = or_(table.c.used_by.is_(None), table.c.used_by == user, table.c.used_until <= int(now))
    statement = update(table).where(*own(conversations, conversation_id, project_id), free)
    return conn.execute(statement.values(used_by=user, used_until=int(until))).rowcount == 1


def keep_locked(conn: Connection, conversation_id: str, user: str, *, until: float) -> None:
    """By who has locked it, and works on for long."""
    table = conversations
    mine = table.c.id == conversation_id, table.c.used_by == user
    conn.execute(update(table).where(*mine).values(used_until=int(until)))


def unlock_conversation(conn: Connection, conversation_id: str, user: str) -> None:
    table = conversations
    mine = table.c.id == conversation_id, table.c.used_by == user
    conn.execute(update(table).where(*mine).values(used_by=None, used_until=None))


def no_such_conversation(conversation_id: str) -> NotFound:
    return NotFound(say("error.no_such_conversation", conversation_id=conversation_id[:200]), param="id")


def all_items(conn: Connection, conversation_id: str) -> list[Json]:
    """In their order."""
    table = response_items
    return list(
        conn.scalars(select(table.c.item).where(table.c.conversation_id == conversation_id).order_by(table.c.seq))
    )


def items_before(conn: Connection, conversation_id: str, response_id: str) -> list[Json]:
    """What a response of the conversation was asked after, in order."""
    table = response_items
    first = select(func.min(table.c.seq)).where(table.c.response_id == response_id).scalar_subquery()
    query = select(table.c.item).where(table.c.conversation_id == conversation_id, table.c.seq < first)
    return list(conn.scalars(query.order_by(table.c.seq)))


def held(conn: Connection, conversation_id: str, ids: list[str]) -> list[str]:
    """Those of the ids that items of the conversation have."""
    table = response_items
    wanted = table.c.conversation_id == conversation_id, table.c.id.in_(ids)
    return list(conn.scalars(select(table.c.id).where(*wanted)))


def item_page(conn: Connection, conversation_id: str, *, after: str | None, limit: int, descending: bool) -> Page[Json]:
    query = select(response_items).where(response_items.c.conversation_id == conversation_id)
    return fetch_page(conn, query, response_items, item_of, after=after, limit=limit, descending=descending)


def get_item(conn: Connection, conversation_id: str, item_id: str) -> Json:
    query = select(response_items.c.item).where(*_in(conversation_id, item_id))
    found = conn.execute(query.order_by(response_items.c.seq.desc()).limit(1)).scalar_one_or_none()
    if found is None:
        raise _no_such_item(item_id)
    return found


def remove_item(conn: Connection, conversation_id: str, item_id: str) -> None:
    """Out of the conversation; a response that has it, too, keeps it. Raises NotFound."""
    table = response_items
    gone = conn.execute(delete(table).where(*_in(conversation_id, item_id), table.c.response_id.is_(None))).rowcount
    kept = conn.execute(update(table).where(*_in(conversation_id, item_id)).values(conversation_id=None)).rowcount
    if not gone + kept:
        raise _no_such_item(item_id)


def _in(conversation_id: str, item_id: str) -> tuple[Any, Any]:
    return response_items.c.conversation_id == conversation_id, response_items.c.id == item_id


def _no_such_item(item_id: str) -> NotFound:
    return NotFound(say("error.no_such_item", item_id=item_id[:200]), param="id")
