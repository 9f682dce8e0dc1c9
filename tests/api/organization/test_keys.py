from tests.api.conftest import Api

PROJECTS = "/v1/organization/projects"
ADMIN = "/v1/organization/admin_api_keys"


def make_account(api: Api, **body: object) -> dict:
    answer = api.client.post(f"{PROJECTS}/{api.project_id}/service_accounts", json={"name": "ci", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def files_status(api: Api, secret: str) -> int:
    return api.client.get("/v1/files", headers=api.as_key(secret)).status_code


def test_a_service_account_comes_with_a_key_that_works_until_it_is_revoked(api: Api) -> None:
    account = make_account(api)
    assert account["object"] == "organization.project.service_account" and account["role"] == "member"
    key = account["api_key"]
    assert key["value"].startswith("sk-") and files_status(api, key["value"]) == 200
    path = f"{PROJECTS}/{api.project_id}/api_keys/{key['id']}"
    listed = api.client.get(path).json()
    assert listed["owner"]["type"] == "service_account" and listed["owner"]["service_account"]["name"] == "ci"
    assert listed["last_used_at"] == int(api.clock())
    assert key["value"] not in str(api.client.get(f"{PROJECTS}/{api.project_id}/api_keys").json())
    assert api.client.delete(path).json() == {
        "id": key["id"],
        "object": "organization.project.api_key.deleted",
        "deleted": True,
    }
    assert files_status(api, key["value"]) == 401
    assert api.client.get(path).status_code == 404


def test_a_service_account_without_a_key(api: Api) -> None:
    account = make_account(api, create_service_account_only=True)
    assert account["api_key"] is None
    path = f"{PROJECTS}/{api.project_id}/service_accounts/{account['id']}"
    key = api.client.post(f"{path}/api_keys", json={"name": "second", "scopes": ["api.files.read"]}).json()
    assert files_status(api, key["value"]) == 200
    jobs = api.client.get("/v1/fine_tuning/jobs", headers=api.as_key(key["value"]))
    assert jobs.status_code == 403 and "Missing scopes" in jobs.json()["error"]["message"]
    assert api.client.delete(path).json()["deleted"] is True
    assert files_status(api, key["value"]) == 401


def test_a_key_expires(api: Api) -> None:
    secret = make_account(api, expires_in_seconds=60)["api_key"]["value"]
    assert files_status(api, secret) == 200
    api.clock.now += 61
    assert files_status(api, secret) == 401


def test_expiry_and_scopes_of_a_key_can_be_changed(api: Api) -> None:
    key = make_account(api)["api_key"]
    path = f"{PROJECTS}/{api.project_id}/api_keys/{key['id']}"
    changed = api.client.post(path, json={"expires_in_seconds": 60, "scopes": ["api.all.read"]}).json()
    assert changed["expires_at"] == int(api.clock()) + 60 and changed["scopes"] == ["api.all.read"]
    assert files_status(api, key["value"]) == 200
    upload = api.client.post(
        "/v1/files", files={"file": b"{}"}, data={"purpose": "fine-tune"}, headers=api.as_key(key["value"])
    )
    assert upload.status_code == 403


def test_another_projects_key_is_not_found_under_this_one(api: Api) -> None:
    key = make_account(api)["api_key"]
    other = api.make_project()
    assert api.client.get(f"{PROJECTS}/{other}/api_keys/{key['id']}").status_code == 404
    assert api.client.delete(f"{PROJECTS}/{other}/api_keys/{key['id']}").status_code == 404
    assert files_status(api, key["value"]) == 200


def test_keys_are_paged(api: Api) -> None:
    for _ in range(3):
        make_account(api)
    path = f"{PROJECTS}/{api.project_id}/api_keys"
    first = api.client.get(path, params={"limit": 2}).json()
    assert len(first["data"]) == 2 and first["has_more"]
    rest = api.client.get(path, params={"after": first["last_id"]}).json()
    assert len(rest["data"]) == 2 and not rest["has_more"]


def test_an_admin_key_administers_and_is_shown_once(api: Api) -> None:
    made = api.client.post(ADMIN, json={"name": "terraform"}).json()
    assert made["value"].startswith("sk-admin-") and made["owner"]["role"] == "owner"
    headers = api.as_key(made["value"])
    assert api.client.get(PROJECTS, headers=headers).status_code == 200
    listed = api.client.get(ADMIN, headers=headers).json()
    assert made["id"] in [key["id"] for key in listed["data"]] and made["value"] not in str(listed)
    assert api.client.get(f"{ADMIN}/{made['id']}").json()["name"] == "terraform"
    assert api.client.delete(f"{ADMIN}/{made['id']}").json()["deleted"] is True
    assert api.client.get(PROJECTS, headers=headers).status_code == 401
    assert api.client.delete(f"{ADMIN}/{made['id']}").status_code == 404


def test_a_service_accounts_key_administers_nothing(api: Api) -> None:
    headers = api.as_key(make_account(api)["api_key"]["value"])
    for path in (PROJECTS, ADMIN, "/v1/organization/audit_logs"):
        refused = api.client.get(path, headers=headers)
        assert refused.status_code == 403 and "admin key" in refused.json()["error"]["message"]


def test_an_admin_key_with_read_scope_changes_nothing(api: Api) -> None:
    headers = api.as_key(api.make_key(is_admin=True, scopes=("api.management.read",)))
    assert api.client.get(PROJECTS, headers=headers).status_code == 200
    assert api.client.post(PROJECTS, json={"name": "x"}, headers=headers).status_code == 403
