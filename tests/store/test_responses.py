"""Responses, their items and events, and conversations, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from tests.store.conftest import NOW, Tenant
from tunery.domain.errors import NotFound
from tunery.domain.ids import new_id
from tunery.domain.responses import UNDER_WAY, Conversation, StoredResponse
from tunery.store import conversations, responses
from tunery.store.database import write
from tunery.store.expiry import remove_old_responses
from tunery.wire.responses.items import message

Json = dict[str, Any]


def keep(conn: Connection, tenant: Tenant, *items: Json, **values: Any) -> StoredResponse:
    chosen = {"status": "completed", "created_at": NOW, "project_id": tenant.project_id, **values}
    response = StoredResponse(id=new_id("response"), model="m", body={"n": 1}, **chosen)
    responses.insert_response(conn, response)
    responses.add_items(conn, response.project_id, items, NOW, response_id=response.id)
    return response


def talk(conn: Connection, tenant: Tenant) -> str:
    conversation = Conversation(new_id("conversation"), tenant.project_id, NOW)
    conversations.insert_conversation(conn, conversation)
    return conversation.id


def said(text: str) -> Json:
    return message("user", [{"type": "input_text", "text": text}])


def test_a_chain_is_the_projects_own_and_has_its_items_in_order(conn: Connection, tenant: Tenant) -> None:
    first = keep(conn, tenant, said("1"), said("2"))
    second = keep(conn, tenant, said("3"), previous_response_id=first.id)
    keep(conn, tenant, said("4"), previous_response_id=first.id)
    links = responses.chain(conn, second.id, tenant.project_id)
    assert [link.id for link in links] == [second.id, first.id]
    texts = [item["content"][0]["text"] for item in responses.items_of(conn, *(link.id for link in links))]
    assert texts == ["1", "2", "3"]
    assert responses.chain(conn, second.id, tenant.other_project_id) == []
    responses.delete_response(conn, first.id, tenant.project_id)
    assert [link.previous_response_id for link in responses.chain(conn, second.id, tenant.project_id)] == [first.id]


def test_an_id_names_the_newest_item_of_its_project(conn: Connection, tenant: Tenant) -> None:
    old, new, other = ({**said(text), "id": "msg_1"} for text in ("old", "new", "other"))
    keep(conn, tenant, old)
    keep(conn, tenant, new)
    responses.add_items(conn, tenant.other_project_id, [other], NOW)
    assert responses.find_items(conn, tenant.project_id, ["msg_1", "msg_2"]) == {"msg_1": new}
    assert responses.find_items(conn, tenant.other_project_id, ["msg_1"]) == {"msg_1": other}


def test_events_are_numbered_through(conn: Connection, tenant: Tenant) -> None:
    running = keep(conn, tenant, status="queued", is_background=True, seen_at=NOW)
    events = [{"type": "x", "sequence_number": number} for number in range(5)]
    assert responses.add_events(conn, running.id, events[:2], NOW) == "queued"
    assert responses.add_events(conn, running.id, events[2:], NOW) == "queued"
    assert responses.events_after(conn, running.id, -1) == events
    assert responses.events_after(conn, running.id, 2) == events[3:]
    assert responses.events_after(conn, running.id, 2**63 - 1) == []
    assert responses.add_events(conn, "resp_nowhere", events, NOW) is None


def test_a_response_ends_once(database: Engine, tenant: Tenant) -> None:
    with write(database) as conn:
        running = keep(conn, tenant, status="in_progress", is_background=True, seen_at=NOW)

    def end(text: str) -> bool:
        with write(database) as conn:
            body = {"status": "failed", "reason": text}
            return responses.end_response(conn, running.id, tenant.project_id, body, [said(text)], NOW, after=UNDER_WAY)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(end, "abcd")) == [False, False, False, True]
    with write(database) as conn:
        assert len(responses.items_of(conn, running.id, direction="output")) == 1


def test_a_conversation_has_one_user_at_a_time(database: Engine, tenant: Tenant) -> None:
    with write(database) as conn:
        conversation = talk(conn, tenant)

    def lock(user: str, now: int = NOW) -> bool:
        with write(database) as conn:
            return conversations.lock_conversation(conn, conversation, tenant.project_id, user, now=now, until=now + 10)

    with ThreadPoolExecutor(4) as pool:
        got = dict(zip("abcd", pool.map(lock, "abcd"), strict=True))
    (user,) = [name for name, is_locked in got.items() if is_locked]
    assert not lock("e")
    with write(database) as conn:
        conversations.unlock_conversation(conn, conversation, "e")  # not its own
    assert not lock("e")
    with write(database) as conn:
        conversations.keep_locked(conn, conversation, user, until=NOW + 30)
        conversations.keep_locked(conn, conversation, "e", until=NOW)
    assert not lock("e", NOW + 20)
    assert lock("e", NOW + 31)
    with write(database) as conn:
        conversations.unlock_conversation(conn, conversation, "e")
    assert lock(user)


def test_what_a_conversation_holds_outlives_the_response(database: Engine, tenant: Tenant) -> None:
    one, other = said("kept"), said("gone")
    with write(database) as conn:
        conversation = talk(conn, tenant)
        held, alone = keep(conn, tenant, one), keep(conn, tenant, other, created_at=NOW + 1)
        responses.give_to_conversation(conn, held.id, conversation)
        assert conversations.held(conn, conversation, [one["id"], other["id"]]) == [one["id"]]
    remove_old_responses(database, NOW + 1)
    with write(database) as conn:
        assert responses.find_response(conn, held.id, tenant.project_id) is None
        assert responses.find_response(conn, alone.id, tenant.project_id) is not None
        assert conversations.all_items(conn, conversation) == [one]
        conversations.delete_conversation(conn, conversation, tenant.project_id)
        with pytest.raises(NotFound):
            conversations.get_conversation(conn, conversation, tenant.project_id)
    remove_old_responses(database, NOW + 2)
    with write(database) as conn:
        assert responses.find_items(conn, tenant.project_id, [one["id"], other["id"]]) == {}
