"""Refused keys and rights are in the audit log, and cannot fill it."""

from typing import Any

import pytest

from tests.api.conftest import Api
from tunery.api.refusals import MAX_AN_HOUR, SAME_AGAIN_S, Allowance
from tunery.domain.tenants import Role
from tunery.store.audit import list_audit
from tunery.store.database import read


def refused(api: Api) -> list[Any]:
    with read(api.engine) as conn:
        return list(
            list_audit(conn, api.organization_id, types=("login.failed", "permission.refused"), limit=500).items
        )


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("authorization", ["", "Bearer sk-nobody-has-this-one", "Basic abc"])
def test_refused_key_is_told(api: Api, method: str, authorization: str) -> None:
    headers = {"authorization": authorization, "user-agent": "curl/8"}
    assert api.client.request(method, "/v1/files/file-1", headers=headers).status_code in (401, 405)
    if method != "POST":
        (event,) = refused(api)
        assert event.type == "login.failed"
        assert (event.actor.ip_address, event.actor.user_agent) == ("testclient", "curl/8")
        assert event.details["request"] == f"{method} /v1/files/file-1"
        assert "nobody-has" not in str(event)


def test_refused_rights_name_the_key(api: Api) -> None:
    reader = api.as_key(api.make_key(id="key_reader", role=Role.READER))
    scoped = api.as_key(api.make_key(id="key_scoped", scopes=("api.files.read",)))
    member = api.as_key(api.make_key(id="key_member", role=Role.MEMBER))
    model = api.make_model()
    answers = [
        api.client.post("/v1/fine_tuning/jobs", json={}, headers=reader),
        api.client.get("/v1/models", headers=scoped),
        api.client.delete(f"/v1/models/{model.name}", headers=member),
        api.client.get("/v1/organization/projects", headers=member),
    ]
    assert [answer.status_code for answer in answers] == [403] * 4
    assert [event.type for event in refused(api)] == ["permission.refused"] * 3  # the member's second is the same again
    assert {event.actor.api_key_id for event in refused(api)} == {"key_reader", "key_scoped", "key_member"}


def test_a_key_that_ended_is_told_in_its_own_organization(api: Api) -> None:
    secret = api.make_key(id="key_old", expires_at=1)
    assert api.client.get("/v1/models", headers=api.as_key(secret)).status_code == 401
    (event,) = refused(api)
    assert (event.actor.api_key_id, event.project_id) == ("key_old", api.project_id)


def test_a_flood_is_counted_and_not_written(api: Api) -> None:
    for number in range(3 * MAX_AN_HOUR):
        api.client.get("/v1/models", headers={"authorization": f"Bearer sk-guess-{number:08}-xxxxxxxxxxxxxxxx"})
    assert len(refused(api)) == MAX_AN_HOUR


def test_the_next_one_says_how_many_were_left_out() -> None:
    now = [0.0]
    allowance = Allowance(clock=lambda: now[0])
    same = ("203.0.113.9", 401, "sk-a")
    assert [allowance.take(same) for _ in range(5)] == [0, None, None, None, None]
    now[0] += SAME_AGAIN_S + 1
    assert allowance.take(same) == 4
    for number in range(10_000):
        allowance.take(("203.0.113.9", 401, str(number)))
    assert len(allowance.written) == MAX_AN_HOUR and len(allowance.seen) <= MAX_AN_HOUR
