"""What was sent and answered comes back to the character, on both databases."""

from typing import Any

import pytest
from sqlalchemy import Connection

from tests.store.conftest import NOW, Tenant
from tunery.domain.completions import StoredCompletion
from tunery.domain.responses import UNDER_WAY, Conversation, StoredResponse
from tunery.store import completions, conversations, responses
from tunery.wire.responses.items import message, output_text

Json = dict[str, Any]

HALVES = "\ud83d", "\ude00"
ODD = [
    "a\0b",
    "\0",
    r"\u0000 as six characters",
    f"{HALVES[0]} alone",
    f"{HALVES[1]}{HALVES[0]} the wrong way round",
    "\u2028\ufffd\ufeff\x1b\U0001f600",
    r'"\\"',
]


@pytest.fixture(params=ODD, ids=ascii)
def odd(request: pytest.FixtureRequest) -> str:
    return request.param


def test_of_completions(conn: Connection, tenant: Tenant, odd: str) -> None:
    request = {"messages": [{"role": "user", "content": odd}], odd: 1}
    answer = {"choices": [{"message": {"content": odd}, "logprobs": {"content": [{"token": odd}]}}]}
    made = StoredCompletion("chatcmpl-1", tenant.project_id, NOW, "m", request, answer, {"team": "a"})
    completions.insert_completion(conn, made)
    assert completions.get_completion(conn, made.id, tenant.project_id) == made
    assert completions.list_completions(conn, tenant.project_id, metadata={"team": "a"}).items == (made,)
    changed = completions.update_completion_metadata(conn, made.id, tenant.project_id, {"team": "b"})
    assert (changed.request, changed.response) == (request, answer)


def test_of_responses_and_their_items(conn: Connection, tenant: Tenant, odd: str) -> None:
    body = {"status": "completed", "instructions": odd, "metadata": {}}
    made = StoredResponse("resp_1", tenant.project_id, NOW, "m", "completed", body)
    asked, said = message("user", [{"type": "input_text", "text": odd}]), message("assistant", [output_text(odd, [])])
    called = {"id": "fc_1", "type": "function_call", "call_id": odd, "name": "f", "arguments": odd}
    responses.insert_response(conn, made)
    responses.add_items(conn, made.project_id, [asked], NOW, output=[said, called], response_id=made.id)
    assert responses.get_response(conn, made.id, made.project_id) == made
    assert responses.items_of(conn, made.id) == [asked, said, called]
    page = responses.input_page(conn, made.id, after=None, limit=5, descending=True)
    assert page.items == (asked,)
    assert responses.find_items(conn, made.project_id, ["fc_1", said["id"]]) == {"fc_1": called, said["id"]: said}


def test_of_responses_in_the_background(conn: Connection, tenant: Tenant, odd: str) -> None:
    body = {"status": "queued", "instructions": odd}
    responses.insert_response(conn, StoredResponse("resp_1", tenant.project_id, NOW, "m", "queued", body))
    told = [{"sequence_number": number, "delta": odd} for number in range(2)]
    assert responses.add_events(conn, "resp_1", told, NOW) == "queued"
    assert responses.events_after(conn, "resp_1", 0) == told[1:]
    said, ended = message("assistant", [output_text(odd, [])]), {**body, "status": "completed"}
    assert responses.end_response(conn, "resp_1", tenant.project_id, ended, [said], NOW, after=UNDER_WAY)
    assert responses.get_response(conn, "resp_1", tenant.project_id).body == ended
    assert responses.items_of(conn, "resp_1", direction="output") == [said]


def test_of_conversations(conn: Connection, tenant: Tenant, odd: str) -> None:
    conversations.insert_conversation(conn, Conversation("conv_1", tenant.project_id, NOW))
    item = message("assistant", [output_text(odd, [])])
    responses.add_items(conn, tenant.project_id, [item], NOW, conversation_id="conv_1")
    assert conversations.all_items(conn, "conv_1") == [conversations.get_item(conn, "conv_1", item["id"])] == [item]
