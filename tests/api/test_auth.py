"""Who gets in, for which project, to do what."""

import pytest

from tests.api.conftest import NOW, Api
from tunery.domain.tenants import Role
from tunery.store import tenants
from tunery.store.database import read, write


def status_with(api: Api, headers: dict[str, str], path: str = "/v1/files", method: str = "GET") -> int:
    return api.client.request(method, path, headers=headers).status_code


def test_missing_key_is_401_with_a_sentence(api: Api) -> None:
    answer = api.client.get("/v1/files", headers={"authorization": ""})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] is None
    assert answer.json()["error"]["message"].startswith("You didn't provide an API key.")


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic abc", "sk-alone", "Bearer sk-wrong", b"Bearer \x80"])
def test_malformed_and_wrong_keys_are_401(api: Api, header: str | bytes) -> None:
    assert api.client.get("/v1/files", headers={"authorization": header}).status_code == 401


def test_wrong_key_is_masked_in_the_answer(api: Api) -> None:
    answer = api.client.get("/v1/files", headers=api.as_key("sk-abcdefghijklmnopqrstuvwxyz"))
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert "abcdefgh" not in answer.text


def test_revoked_key_stops_at_once(api: Api) -> None:
    secret = api.make_key(id="key_gone")
    assert status_with(api, api.as_key(secret)) == 200
    with write(api.engine) as conn:
        tenants.revoke_key(conn, "key_gone", NOW)
    assert status_with(api, api.as_key(secret)) == 401


def test_key_expires(api: Api) -> None:
    secret = api.make_key(expires_at=int(NOW) + 10)
    assert status_with(api, api.as_key(secret)) == 200
    api.clock.now += 10
    assert status_with(api, api.as_key(secret)) == 401


def test_use_of_a_key_is_noted(api: Api) -> None:
    status_with(api, api.as_key(api.make_key(id="key_used")))
    with read(api.engine) as conn:
        key = tenants.find_key(conn, "key_used")
    assert key is not None
    assert key.last_used_at == int(NOW)


def test_headers_may_only_name_what_the_key_reaches(api: Api) -> None:
    secret = api.as_key(api.make_key())
    own = {"openai-organization": api.organization_id, "openai-project": api.project_id}
    assert status_with(api, {**secret, **own}) == 200
    assert status_with(api, {**secret, "openai-project": "proj_other"}) == 401
    assert status_with(api, {**secret, "openai-organization": "org-other"}) == 401


def test_admin_key_chooses_its_project_by_header(api: Api) -> None:
    admin = api.as_key(api.make_key(project_id=None, is_admin=True))
    other = api.make_project()
    api.make_file()
    assert len(api.client.get("/v1/files", headers=admin).json()["data"]) == 1
    assert api.client.get("/v1/files", headers={**admin, "openai-project": other}).json()["data"] == []
    assert status_with(api, {**admin, "openai-project": "proj_unknown"}) == 401


def test_key_without_the_scope_is_403(api: Api) -> None:
    secret = api.as_key(api.make_key(scopes=("api.files.read",)))
    assert status_with(api, secret) == 200
    answer = api.client.get("/v1/fine_tuning/jobs", headers=secret)
    assert answer.status_code == 403
    assert "Missing scopes: api.fine_tuning.jobs.read" in answer.json()["error"]["message"]


def test_reader_may_look_and_not_touch(api: Api) -> None:
    secret = api.as_key(api.make_key(role=Role.READER))
    assert status_with(api, secret) == 200
    assert status_with(api, secret, "/v1/files/file-x", "DELETE") == 403


def test_only_an_owner_deletes_models(api: Api) -> None:
    model = api.make_model()
    secret = api.as_key(api.make_key(role=Role.MEMBER))
    assert status_with(api, secret, f"/v1/models/{model.name}", "DELETE") == 403
    assert status_with(api, {}, f"/v1/models/{model.name}", "DELETE") == 200
