"""Responses that are kept, their items, and the events of those that are answered in the background.

One table has all items: of a response as its input and its output, of a conversation, or of both. An item's id is not
unique, since clients send an answer's items back as input: it names the newest item of its project that has it.
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, delete, exists, insert, literal, or_, select, update

from tunery.domain.errors import NotFound
from tunery.domain.responses import UNDER_WAY, Direction, StoredResponse
from tunery.store.paging import Page, fetch_page, own, values_of
from tunery.store.tables import conversations, response_events, response_items, responses
from tunery.texts import say

Json = dict[str, Any]

Statuses = tuple[str, ...]

MAX_EXPIRED = 500  # responses that one transaction of the janitor removes


class Link(NamedTuple):
    """One response of a chain."""

    id: str
    previous_response_id: str | None
    status: str


def insert_response(conn: Connection, response: StoredResponse) -> None:
    conn.execute(insert(responses), vars(response) | {"bytes": num_bytes(response.body)})


def num_bytes(value: Any) -> int:
    """What it counts towards its project's storage: its JSON."""
    return len(json.dumps(value).encode())


def get_response(conn: Connection, response_id: str, project_id: str) -> StoredResponse:
    found = find_response(conn, response_id, project_id)
    if found is None:
        raise no_such_response(response_id)
    return found


def find_response(conn: Connection, response_id: str, project_id: str) -> StoredResponse | None:
    row = conn.execute(select(responses).where(*own(responses, response_id, project_id))).first()
    return None if row is None else StoredResponse(**values_of(row, "bytes"))


def chain(conn: Connection, response_id: str, project_id: str) -> list[Link]:
    """The response and those that came before it, newest first. The last one's own `previous_response_id` is null
    unless that response is gone."""
    columns = responses.c.id, responses.c.previous_response_id, responses.c.status
    first = (
        select(*columns, literal(0).label("depth")).where(*own(responses, response_id, project_id)).cte(recursive=True)
    )
    following = select(*columns, first.c.depth + 1).join(first, responses.c.id == first.c.previous_response_id)
    links = first.union_all(following.where(responses.c.project_id == project_id))
    return [Link(row.id, row.previous_response_id, row.status) for row in conn.execute(select(links).order_by("depth"))]


def begin_response(conn: Connection, response_id: str, now: int) -> None:
    """From queued to in progress."""
    conn.execute(
        update(responses)
        .where(responses.c.id == response_id, responses.c.status == "queued")
        .values(status="in_progress", seen_at=now)
    )


def end_response(
    conn: Connection, response_id: str, project_id: str, body: Json, output: list[Json], now: int, *, after: Statuses
) -> bool:
    """With its output. False, and nothing is written, unless its status is one of `after`."""
    is_open = and_(*own(responses, response_id, project_id), responses.c.status.in_(after))
    before = conn.execute(select(responses.c.body).where(is_open)).scalar_one_or_none()
    size = responses.c.bytes - num_bytes(before) + num_bytes(body)  # its events count, too
    values = {"status": body["status"], "body": body, "bytes": size}
    if conn.execute(update(responses).where(is_open).values(**values)).rowcount == 0:
        return False
    add_items(conn, project_id, (), now, output=output, response_id=response_id)
    return True


def delete_response(conn: Connection, response_id: str, project_id: str) -> None:
    """With its items, but for those that a conversation holds, too. Raises NotFound."""
    if conn.execute(delete(responses).where(*own(responses, response_id, project_id))).rowcount == 0:
        raise no_such_response(response_id)
    _forget_items(conn, [response_id])


def _forget_items(conn: Connection, response_ids: list[str]) -> None:
    theirs = response_items.c.response_id.in_(response_ids)
    held = exists().where(conversations.c.id == response_items.c.conversation_id)
    conn.execute(delete(response_items).where(theirs, or_(response_items.c.conversation_id.is_(None), ~held)))
    conn.execute(update(response_items).where(theirs).values(response_id=None))


def no_such_response(response_id: str) -> NotFound:
    return NotFound(say("error.no_such_response", response_id=response_id[:200]), param="id")


# ---- items


def add_items(
    conn: Connection,
    project_id: str,
    items: Iterable[Json],
    now: int,
    *,
    output: Iterable[Json] = (),
    response_id: str | None = None,
    conversation_id: str | None = None,
) -> None:
    directions: dict[Direction, Iterable[Json]] = {"input": items, "output": output}
    rows = [
        {
            "id": item["id"],
            "project_id": project_id,
            "created_at": now,
            "response_id": response_id,
            "direction": direction,
            "conversation_id": conversation_id,
            "item": item,
            "bytes": num_bytes(item),
        }
        for direction, some in directions.items()
        for item in some
    ]
    if rows:
        conn.execute(insert(response_items), rows)


def items_of(conn: Connection, *response_ids: str, direction: Direction | None = None) -> list[Json]:
    """In their order, which is that of the responses: each was there before what follows it."""
    table = response_items
    query = select(table.c.item).where(table.c.response_id.in_(response_ids))
    if direction is not None:
        query = query.where(table.c.direction == direction)
    return list(conn.scalars(query.order_by(table.c.seq)))


def input_page(conn: Connection, response_id: str, *, after: str | None, limit: int, descending: bool) -> Page[Json]:
    table = response_items
    query = select(table).where(table.c.response_id == response_id, table.c.direction == "input")
    return fetch_page(conn, query, table, item_of, after=after, limit=limit, descending=descending)


def find_items(conn: Connection, project_id: str, ids: Iterable[str]) -> dict[str, Json]:
    """By id, those of the ids that the project has. An id with U+0000 is none, and Postgres has no place for it."""
    table = response_items
    wanted = {id for id in ids if "\0" not in id}
    if not wanted:
        return {}
    query = select(table.c.id, table.c.item).where(table.c.project_id == project_id, table.c.id.in_(wanted))
    return {row.id: row.item for row in conn.execute(query.order_by(table.c.seq))}


def item_of(row: Row[Any]) -> Json:
    return row.item


def give_to_conversation(conn: Connection, response_id: str, conversation_id: str) -> None:
    """The response's items become the conversation's, too."""
    table = response_items
    conn.execute(update(table).where(table.c.response_id == response_id).values(conversation_id=conversation_id))


# ---- answered in the background


def add_events(conn: Connection, response_id: str, events: list[Json], now: int) -> str | None:
    """Keep them, and say that somebody works on the response. Gives its status; None when it was deleted."""
    size = responses.c.bytes + (num_bytes(events) if events else 0)
    seen = update(responses).where(responses.c.id == response_id).values(seen_at=now, bytes=size)
    status = conn.execute(seen.returning(responses.c.status)).scalar_one_or_none()
    if status is not None and events:
        last = events[-1]["sequence_number"]
        conn.execute(insert(response_events).values(response_id=response_id, last_number=last, events=events))
    return status


def events_after(conn: Connection, response_id: str, number: int) -> list[Json]:
    """Those with a higher sequence number, in order."""
    table = response_events
    query = select(table.c.events).where(table.c.response_id == response_id, table.c.last_number > number)
    groups = conn.scalars(query.order_by(table.c.last_number))
    return [event for events in groups for event in events if event["sequence_number"] > number]


def next_number(conn: Connection, response_id: str) -> int:
    """The sequence number of the event that would come next."""
    table = response_events
    query = select(table.c.last_number).where(table.c.response_id == response_id)
    last = conn.execute(query.order_by(table.c.last_number.desc()).limit(1)).scalar_one_or_none()
    return 0 if last is None else last + 1


def left_alone(conn: Connection, seen_before: float) -> list[StoredResponse]:
    """Under way, but nobody has worked on them for long: their process was killed."""
    query = select(responses).where(responses.c.status.in_(UNDER_WAY), responses.c.seen_at < int(seen_before))
    return [StoredResponse(**values_of(row, "bytes")) for row in conn.execute(query)]


# ---- their end


def delete_expired(conn: Connection, created_before: float) -> int:
    """Some responses that are older, with their items; how many."""
    query = select(responses.c.id).where(responses.c.created_at < int(created_before))
    ids = list(conn.scalars(query.order_by(responses.c.created_at).limit(MAX_EXPIRED)))
    if ids:
        conn.execute(delete(responses).where(responses.c.id.in_(ids)))
        _forget_items(conn, ids)
    return len(ids)


def delete_stray_items(conn: Connection, created_before: float) -> None:
    """Older ones that belong to no response, and to a conversation that was deleted."""
    table = response_items
    held = exists().where(conversations.c.id == table.c.conversation_id)
    conn.execute(delete(table).where(table.c.created_at < int(created_before), table.c.response_id.is_(None), ~held))
