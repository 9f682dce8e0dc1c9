from tests.api.conftest import Api

ROOT = "/v1/organization"


def test_a_project_is_made_renamed_and_archived(api: Api) -> None:
    made = api.client.post(f"{ROOT}/projects", json={"name": "Support"}).json()
    assert made["object"] == "organization.project" and made["status"] == "active"
    path = f"{ROOT}/projects/{made['id']}"
    assert api.client.post(path, json={"name": "Sales"}).json()["name"] == "Sales"
    assert api.client.get(path).json()["name"] == "Sales"
    archived = api.client.post(f"{path}/archive").json()
    assert archived["status"] == "archived" and archived["archived_at"]
    active = api.client.get(f"{ROOT}/projects").json()
    assert [project["id"] for project in active["data"]] == [api.project_id]
    everything = api.client.get(f"{ROOT}/projects", params={"include_archived": "true"}).json()
    assert everything["last_id"] == made["id"] and everything["has_more"] is False


def test_the_last_active_project_stays(api: Api) -> None:
    refused = api.client.post(f"{ROOT}/projects/{api.project_id}/archive")
    assert refused.status_code == 400
    assert "only active project" in refused.json()["error"]["message"]


def test_somebody_new_is_added_by_mail_address(api: Api) -> None:
    path = f"{ROOT}/projects/{api.project_id}/users"
    added = api.client.post(path, json={"email": "ada@example.com", "role": "member"}).json()
    assert (added["object"], added["email"], added["role"]) == (
        "organization.project.user",
        "ada@example.com",
        "member",
    )
    again = api.client.post(path, json={"user_id": added["id"], "role": "reader"}).json()
    assert (again["id"], again["role"]) == (added["id"], "reader")
    found = api.client.get(f"{ROOT}/users", params={"emails[]": "ada@example.com"}).json()["data"]
    assert [user["id"] for user in found] == [added["id"]]
    assert api.client.delete(f"{path}/{added['id']}").json()["deleted"] is True
    assert api.client.get(f"{path}/{added['id']}").status_code == 404
    assert api.client.get(f"{ROOT}/users/{added['id']}").status_code == 200


def test_a_role_that_does_not_exist_is_refused(api: Api) -> None:
    body = {"email": "ada@example.com", "role": "king"}
    refused = api.client.post(f"{ROOT}/projects/{api.project_id}/users", json=body)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "role"


def test_the_organisation_keeps_an_owner(api: Api) -> None:
    (owner,) = api.client.get(f"{ROOT}/users").json()["data"]
    for attempt in (
        api.client.post(f"{ROOT}/users/{owner['id']}", json={"role": "reader"}),
        api.client.delete(f"{ROOT}/users/{owner['id']}"),
    ):
        assert attempt.status_code == 400 and "only owner" in attempt.json()["error"]["message"]


def test_an_owner_of_a_project_does_not_administer_the_organisation(api: Api) -> None:
    path = f"{ROOT}/projects/{api.project_id}/users"
    user = api.client.post(path, json={"email": "ada@example.com", "role": "owner"}).json()
    keys = f"/tunery/v1/organization/projects/{api.project_id}/api_keys"
    secret = api.client.post(keys, json={"name": "mine", "user_id": user["id"]}).json()["value"]
    assert api.client.get("/v1/files", headers=api.as_key(secret)).status_code == 200
    assert api.client.get(f"{ROOT}/projects", headers=api.as_key(secret)).status_code == 403
    api.client.post(f"{ROOT}/users/{user['id']}", json={"role": "owner"})
    assert api.client.get(f"{ROOT}/projects", headers=api.as_key(secret)).status_code == 200


def test_a_member_who_becomes_a_reader_may_only_look(api: Api) -> None:
    path = f"{ROOT}/projects/{api.project_id}/users"
    user = api.client.post(path, json={"email": "ada@example.com", "role": "member"}).json()
    keys = f"/tunery/v1/organization/projects/{api.project_id}/api_keys"
    headers = api.as_key(api.client.post(keys, json={"name": "mine", "user_id": user["id"]}).json()["value"])
    hook = {"name": "ci", "url": "https://ci.example", "event_types": ["fine_tuning.job.failed"]}
    assert api.client.post("/v1/webhook_endpoints", json=hook, headers=headers).status_code == 200
    api.client.post(f"{path}/{user['id']}", json={"role": "reader"})
    assert api.client.post("/v1/webhook_endpoints", json=hook, headers=headers).status_code == 403
    assert api.client.get("/v1/webhook_endpoints", headers=headers).status_code == 200
    api.client.delete(f"{path}/{user['id']}")
    assert api.client.get("/v1/webhook_endpoints", headers=headers).status_code == 401


def test_strangers_see_nothing_of_the_organisation(api: Api) -> None:
    headers = api.as_key(api.make_stranger(is_admin=True))
    assert api.client.get(f"{ROOT}/projects/{api.project_id}", headers=headers).status_code == 404
    listed = api.client.get(f"{ROOT}/projects", headers=headers).json()["data"]
    assert api.project_id not in [project["id"] for project in listed]
