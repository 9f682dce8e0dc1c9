from typing import Any

from tests.api.conftest import Api

LOGS = "/v1/organization/audit_logs"
PROJECTS = "/v1/organization/projects"


def logs(api: Api, **params: Any) -> list[dict]:
    answer = api.client.get(LOGS, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_a_change_says_who_what_which_and_from_where(api: Api) -> None:
    project = api.client.post(PROJECTS, json={"name": "Support"}, headers={"user-agent": "ci/1"}).json()
    (entry,) = logs(api)
    assert entry["type"] == "project.created" and entry["effective_at"] == int(api.clock())
    assert entry["project"] == {"id": project["id"], "name": "Support"}
    assert entry["project.created"]["id"] == project["id"]
    assert entry["project.created"]["data"]["name"] == "Support"
    key = entry["actor"]["api_key"]
    assert key["user"]["email"] == "owner@localhost" and key["ip_address"] and key["user_agent"] == "ci/1"


def test_secrets_are_not_in_the_log(api: Api) -> None:
    made = api.client.post(f"{PROJECTS}/{api.project_id}/service_accounts", json={"name": "ci"}).json()
    entries = logs(api)
    assert [entry["type"] for entry in entries] == ["api_key.created", "service_account.created"]
    assert made["api_key"]["value"] not in str(entries)


def test_the_log_is_filtered(api: Api) -> None:
    project = api.client.post(PROJECTS, json={"name": "Support"}).json()
    api.clock.now += 100
    account = api.client.post(f"{PROJECTS}/{api.project_id}/service_accounts", json={"name": "ci"}).json()
    now = int(api.clock())
    assert [entry["type"] for entry in logs(api, **{"event_types[]": "project.created"})] == ["project.created"]
    assert len(logs(api, **{"resource_ids[]": account["id"]})) == 1
    assert len(logs(api, **{"project_ids[]": project["id"]})) == 1
    assert len(logs(api, **{"actor_emails[]": "owner@localhost"})) == 3
    assert logs(api, **{"actor_ids[]": "user-nobody"}) == []
    assert len(logs(api, **{"effective_at[gte]": now})) == 2
    assert len(logs(api, **{"effective_at[gt]": now})) == 0
    assert len(logs(api, **{"effective_at[lt]": now})) == 1
    assert len(logs(api, **{"effective_at[lte]": now})) == 3


def test_the_log_is_paged_both_ways(api: Api) -> None:
    for name in "abcde":
        api.client.post(PROJECTS, json={"name": name})

    def names(page: dict) -> str:
        return "".join(entry["project.created"]["data"]["name"] for entry in page["data"])

    first = api.client.get(LOGS, params={"limit": 2}).json()
    assert names(first) == "ed" and first["has_more"]
    second = api.client.get(LOGS, params={"limit": 2, "after": first["last_id"]}).json()
    assert names(second) == "cb"
    back = api.client.get(LOGS, params={"limit": 2, "before": second["first_id"]}).json()
    assert names(back) == "ed" and not back["has_more"]


def test_another_organisation_has_its_own_log(api: Api) -> None:
    api.client.post(PROJECTS, json={"name": "Support"})
    headers = api.as_key(api.make_stranger(is_admin=True))
    assert api.client.get(LOGS, headers=headers).json()["data"] == []
