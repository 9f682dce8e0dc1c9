"""Who gets in, for which project, to do what."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import ClassVar

import pytest

from tests.api.conftest import NOW, Api
from tests.loops import run
from tests.receivers import listening
from tunery.cli.connection import client_to
from tunery.dashboard.connection import Connection
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


def account_headers_elsewhere(api: Api) -> list[dict[str, str]]:
    """What others have on this server."""
    api.make_stranger()
    with read(api.engine) as conn:
        stranger = tenants.list_organizations(conn)[-1]
        foreign = tenants.list_projects(conn, stranger.id).items[0].id
    return [
        {"openai-organization": stranger.id},
        {"openai-organization": stranger.slug},
        {"openai-project": api.make_project()},
        {"openai-project": foreign},
    ]


def test_headers_may_only_name_what_the_key_reaches(api: Api) -> None:
    secret = api.as_key(api.make_key())
    own = {"openai-organization": api.organization_id, "openai-project": api.project_id}
    answer = api.client.get("/v1/files", headers={**secret, **own})
    assert answer.status_code == 200 and "x-tunery-ignored-headers" not in answer.headers
    for headers in account_headers_elsewhere(api):
        assert status_with(api, {**secret, **headers}) == 401, headers


OLD_ACCOUNT = [
    ({"openai-project": "proj_old"}, "openai-project"),
    ({"openai-organization": "org-old"}, "openai-organization"),
    ({"openai-organization": "old name", "openai-project": "proj_old"}, "openai-organization, openai-project"),
]


@pytest.mark.parametrize(("headers", "ignored"), OLD_ACCOUNT)
def test_headers_of_an_old_account_are_ignored_and_named(api: Api, headers: dict[str, str], ignored: str) -> None:
    for path in ("/v1/models", "/v1/files", "/v1/fine_tuning/jobs"):
        answer = api.client.get(path, headers=headers | api.as_key(api.make_key()))
        assert answer.status_code == 200
        assert answer.headers["x-tunery-ignored-headers"] == ignored
        assert answer.headers["openai-project"] == api.project_id


@pytest.mark.parametrize(("headers", "ignored"), OLD_ACCOUNT)
def test_a_setting_refuses_them(make_api, headers: dict[str, str], ignored: str) -> None:
    api = make_api(strict_account_headers=True)
    assert status_with(api, headers | api.as_key(api.make_key())) == 401


def test_our_own_clients_send_nothing_of_an_old_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-old")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_old")
    for client, project in (
        (client_to("http://x/v1", "sk-x"), None),
        (Connection("http://x", "sk-x").client, None),
        (Connection("http://x", "sk-x", "proj_mine").client, "proj_mine"),
    ):
        sent = {name.lower(): value for name, value in client.default_headers.items() if isinstance(value, str)}
        assert "openai-organization" not in sent and sent.get("openai-project") == project


class Recorder(BaseHTTPRequestHandler):
    """A server that keeps the headers of what it is asked."""

    seen: ClassVar[list[dict[str, str]]] = []

    def do_GET(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"object": "list", "data": []}')

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def recorder() -> Iterator[str]:
    Recorder.seen.clear()
    with listening(Recorder) as address:
        yield address


def test_our_own_clients_send_no_headers_of_the_environment(monkeypatch: pytest.MonkeyPatch, recorder: str) -> None:
    old = "X-Old: 1\nOpenAI-Organization: org-old\nAuthorization: Bearer sk-old\nOpenAI-Project: proj_old\nCookie: a=b"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", old)
    dashboard = Connection(recorder, "sk-mine", headers={"x-mine": "1"})

    async def ask(connection: Connection) -> None:
        async with connection.client:
            await connection.client.models.list()
            await connection.get("/tunery/v1/session")

    client_to(f"{recorder}/v1", "sk-mine").models.list()
    run(ask(dashboard))
    run(ask(Connection(recorder, "sk-mine", headers={"x-mine": "1"}).for_background()))

    assert [sent.get("x-mine") for sent in Recorder.seen] == [None, "1", "1", "1", "1"]
    for sent in Recorder.seen:
        assert sent["authorization"] == "Bearer sk-mine"
        assert not sent.keys() & {"x-old", "openai-organization", "openai-project", "cookie"}


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
