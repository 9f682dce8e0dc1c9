"""The plain HTTP side: what other sites may not do, and what comes down."""

import base64
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, update

from tests.api.test_rights import MAY, ORGANIZATION, PERSON, ROLES, Person, person_changes, post
from tests.dashboard.stand import Stand
from tests.loops import run
from tunery.dashboard.guard import MAX_FAILURES, MAX_FAILURES_OF_KEY, WINDOW_S, Throttle
from tunery.dashboard.routes import as_plain_csv
from tunery.dashboard.sessions import COOKIE
from tunery.launch.dashboard_values import DatabaseValues
from tunery.store import tables
from tunery.store.database import connect, write

GOOD = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}\n' * 10


@pytest.fixture
def browser_like(stand: Stand) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stand.url, headers={"origin": stand.url}) as client:
        answer = client.post("/dashboard/session", data={"key": stand.key, "next": "/dashboard/keys"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/keys")
        yield client


def test_a_form_of_another_site_does_nothing(browser_like: httpx.Client) -> None:
    stranger = {"origin": "https://elsewhere.example"}
    browser_like.post("/dashboard/sign-out", headers=stranger)
    browser_like.post("/dashboard/preferences", data={"theme": "dark"}, headers=stranger)
    assert browser_like.post("/dashboard/upload", content=b"{}", headers=stranger).status_code == 401
    page = browser_like.get("/dashboard/")
    assert page.status_code == 200
    assert "dataset.theme = dark.matches" in page.text  # still as the system


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null", "http://[", "http://[::1", "//", "127.0.0.1"])
def test_another_site_cannot_sign_a_visitor_in(stand: Stand, origin: str) -> None:
    answer = httpx.post(f"{stand.url}/dashboard/session", data={"key": stand.key}, headers={"origin": origin})
    assert COOKIE not in answer.cookies and "reason=origin" in answer.headers["location"]


def session_may(browser: httpx.Client, file_id: str) -> tuple[bool, bool]:
    """Whether it gets a file, and whether it puts one there."""
    sent = browser.post("/dashboard/upload", content=GOOD, headers={"x-filename": "b"})
    return browser.get(f"/dashboard/download/{file_id}").status_code == 200, sent.status_code == 200


class Later:
    """In place of a clock that can be moved on: keys with an end have come to it."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand

    @property
    def now(self) -> float:
        return 0.0

    @now.setter
    def now(self, value: float) -> None:
        keys = tables.api_keys
        with write(self._stand.database) as conn:
            conn.execute(update(keys).where(keys.c.expires_at.is_not(None)).values(expires_at=1))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("role", ROLES)
def test_a_session_may_what_its_key_may_before_and_after_every_change(stand: Stand, role: str) -> None:
    admin = {"authorization": f"Bearer {stand.key}"}
    with httpx.Client(base_url=stand.url, headers=admin, timeout=60) as client:
        api: Any = SimpleNamespace(client=client, clock=Later(stand))
        api.as_key = lambda secret: {"authorization": f"Bearer {secret}"}
        everywhere = post(api, f"{ORGANIZATION}/admin_api_keys", {"name": "everywhere"})["value"]
        walked = 0
        for number, (name, change, after) in enumerate(person_changes("member", role)):
            person = Person(api, f"{role}{number}", "member", role)
            theirs = api.as_key(everywhere) | {"openai-project": person.project}
            file = {"file": ("a.jsonl", GOOD), "purpose": (None, "fine-tune")}
            file_id = client.post("/v1/files", files=file, headers=theirs).json()["id"]
            with httpx.Client(base_url=stand.url, headers={"origin": stand.url}, timeout=60) as browser:
                browser.post("/dashboard/session", data={"key": person.secret})
                before = session_may(browser, file_id)
                change(person)
                found = [before, session_may(browser, file_id)]
            allowed = [MAY[PERSON["member", role]], MAY[after]]
            assert found == [("look" in levels, "use" in levels) for levels in allowed], name
            walked += 1
        assert walked == 12


PROXIED = {"origin": "https://tunery.example", "x-forwarded-host": "tunery.example", "x-forwarded-proto": "https"}


def test_behind_a_named_proxy_the_public_address_is_ours(tmp_path: Path, base_model_dir: Path) -> None:
    options = {"public_url": "https://tunery.example", "trusted_proxies": "127.0.0.1"}
    stand = Stand(tmp_path, model_cache=base_model_dir.parent, options=options)
    stand.start_web()
    try:
        answer = httpx.post(f"{stand.url}/dashboard/session", data={"key": stand.key}, headers=PROXIED)
    finally:
        stand.stop_all()
    cookie = answer.headers["set-cookie"]
    assert COOKIE in cookie and "HttpOnly" in cookie and "Secure" in cookie


def test_forwarded_headers_of_anybody_say_nothing(stand: Stand) -> None:
    answer = httpx.post(f"{stand.url}/dashboard/session", data={"key": stand.key}, headers=PROXIED)
    assert COOKIE not in answer.cookies and "reason=origin" in answer.headers["location"]
    headers = {"origin": stand.url, "x-forwarded-proto": "https"}
    answer = httpx.post(f"{stand.url}/dashboard/session", data={"key": stand.key}, headers=headers)
    assert COOKIE in answer.headers["set-cookie"] and "Secure" not in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "target",
    [
        "https://elsewhere.example/",
        "//elsewhere.example",
        "/v1/files",
        "/dashboard//x",
        "/dashboard/sign-in",
        "/dashboard/sign-in?reason=expired&next=/dashboard/sign-in",
    ],
)
def test_signing_in_leads_to_pages_of_the_dashboard_only(stand: Stand, target: str) -> None:
    answer = httpx.post(f"{stand.url}/dashboard/session", data={"key": stand.key, "next": target})
    assert answer.headers["location"] == "/dashboard/"


def test_the_example_dataset_is_one_click_away(browser_like: httpx.Client, stand: Stand) -> None:
    answer = browser_like.post("/dashboard/example")
    file_id = answer.headers["location"].removeprefix("/dashboard/jobs/new?file=")
    assert stand.client().files.retrieve(file_id).filename == "marv.jsonl"


def test_a_file_comes_down_as_it_went_up(browser_like: httpx.Client) -> None:
    content = b'{"messages": []}\n'
    headers = {"x-filename": "na%C3%AFve.jsonl"}
    stored = browser_like.post("/dashboard/upload?purpose=fine-tune", content=content, headers=headers).json()
    answer = browser_like.get(f"/dashboard/download/{stored['id']}")
    assert answer.content == content
    assert "na%C3%AFve.jsonl" in answer.headers["content-disposition"]


def test_without_a_session_nothing_comes_down(stand: Stand) -> None:
    answer = httpx.get(f"{stand.url}/dashboard/download/file-x")
    assert answer.status_code == 303 and "/sign-in" in answer.headers["location"]


def test_the_result_file_comes_down_as_plain_csv() -> None:
    plain = b"step,train_loss\n1,0.5\n"
    assert as_plain_csv(base64.b64encode(plain)) == plain
    assert as_plain_csv(plain) == plain


ELSEWHERE = {"origin": "https://elsewhere.example"}


@pytest.mark.parametrize("path", ["/dashboard/sign-in", "/dashboard/static/theme.css", "/v1/models", "/nowhere", "/"])
def test_every_answer_says_what_a_browser_may_do_with_it(stand: Stand, path: str) -> None:
    headers = httpx.get(f"{stand.url}{path}").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"


def test_a_page_runs_only_scripts_with_the_nonce_of_its_request(stand: Stand) -> None:
    first, second = (httpx.get(f"{stand.url}/dashboard/sign-in") for _ in range(2))
    policies = [answer.headers["content-security-policy"] for answer in (first, second)]
    assert policies[0] != policies[1]
    scripts = next(part for part in policies[0].split("; ") if part.startswith("script-src"))
    assert "unsafe-inline" not in scripts
    nonce = scripts.split("'nonce-")[1].split("'")[0]
    inline = [tag for tag in re.findall(r"<script[^>]*>", first.text) if " src=" not in tag]
    assert len(inline) > 3 and all(f'nonce="{nonce}"' in tag for tag in inline)
    assert not re.search(r"<[a-z][^>]* on[a-z]+=", first.text)


@pytest.mark.parametrize(
    "headers",
    [
        ELSEWHERE,
        {"origin": "null"},
        {"origin": "https://127.0.0.1.elsewhere.example"},
        {"origin": "http://["},
        {"origin": "//"},
        {"origin": "http://[::1"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_a_page_of_another_site_gets_no_socket(stand: Stand, headers: dict[str, str]) -> None:
    socket = f"{stand.url}/dashboard/_nicegui_ws/socket.io/?EIO=4&transport="
    assert httpx.get(f"{socket}polling", headers=headers).status_code == 403
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": base64.b64encode(b"0123456789abcdef").decode(),
    }
    assert httpx.get(f"{socket}websocket", headers=headers | upgrade).status_code == 403
    assert httpx.get(f"{socket}polling", headers={"origin": stand.url}).status_code == 200


class Door:
    """The throttle of two apis on one database, which take turns."""

    def __init__(self, database: Engine) -> None:
        self.now = 0.0
        clock = lambda: self.now  # noqa: E731
        self.apis = cycle([Throttle(DatabaseValues(database, clock), clock) for _ in range(2)])

    def enter(self, address: str, key_start: str) -> float:
        """How long the try has to wait; 0: it was taken, and counts."""
        return run(next(self.apis).enter(address, key_start))[1]


@pytest.fixture
def door(tmp_path: Path, sqlite_template: Path) -> Iterator[Door]:
    shutil.copyfile(sqlite_template, tmp_path / "tunery.db")
    database = connect(f"sqlite:///{tmp_path / 'tunery.db'}")
    yield Door(database)
    database.dispose()


def test_tries_at_keys_are_counted_by_address_and_by_the_beginning_of_the_key(door: Door) -> None:
    for number in range(MAX_FAILURES_OF_KEY):
        assert not door.enter(f"10.0.0.{number // MAX_FAILURES}", "sk-abc")
    assert door.enter("10.0.0.99", "sk-abc") == WINDOW_S  # another address, the same key
    assert not door.enter("10.0.0.99", "sk-other")
    assert door.enter("10.0.0.1", "sk-other")  # another key, the same address
    for door.now in (WINDOW_S, WINDOW_S + 0.5, 9 * WINDOW_S):
        assert door.enter("10.0.0.1", "sk-abc") == 0.0


def test_one_stranger_who_knows_how_a_key_begins_keeps_nobody_else_out(door: Door) -> None:
    taken = [not door.enter("10.0.0.1", "sk-abc") for _ in range(MAX_FAILURES_OF_KEY)]
    assert sum(taken) == MAX_FAILURES
    assert not door.enter("10.0.0.2", "sk-abc")


def test_a_try_that_was_none_is_forgiven_and_no_other(door: Door) -> None:
    names = [run(next(door.apis).enter("10.0.0.1", f"sk-{number}"))[0] for number in range(MAX_FAILURES)]
    assert door.enter("10.0.0.1", "sk-new")
    run(next(door.apis).forgive("10.0.0.1", "sk-0", names[0]))
    assert [bool(door.enter("10.0.0.1", "sk-new")) for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    "addresses", [["2001:db8::1", "2001:db8::2", "2001:db8::ffff:1"], [f"fd00:0:0:1::{number}" for number in range(9)]]
)
def test_addresses_of_one_network_are_one_stranger(door: Door, addresses: list[str]) -> None:
    for number in range(MAX_FAILURES):
        assert not door.enter(addresses[number % len(addresses)], f"sk-{number}")
    assert door.enter(addresses[0], "sk-new")
    assert not door.enter("2001:db8:0:5::1", "sk-new") and not door.enter("not-an-address", "sk-new")


def of_audit(stand: Stand, event_type: str) -> list[dict]:
    headers = {"authorization": f"Bearer {stand.key}"}
    query = {"event_types[]": event_type}
    return httpx.get(f"{stand.url}/v1/organization/audit_logs", params=query, headers=headers).json()["data"]


def test_the_audit_log_has_the_address_of_the_browser(stand: Stand) -> None:
    """Of a refused sign-in, and of what is changed on pages."""
    transport = httpx.HTTPTransport(local_address="127.0.0.9")
    with httpx.Client(base_url=stand.url, transport=transport, headers={"origin": stand.url}) as browser:
        answer = browser.post("/dashboard/session", data={"key": "sk-a-wrong-one"})
        assert "reason=wrong" in answer.headers["location"]
        assert "127.0.0.9" in str(of_audit(stand, "login.failed")[0])
        assert browser.post("/dashboard/session", data={"key": stand.key}).headers["location"] == "/dashboard/"
        browser.post(
            "/dashboard/upload", content=b'{"prompt": "x", "completion": "y"}\n', headers={"x-filename": "a.jsonl"}
        )
        assert "127.0.0.9" in str(of_audit(stand, "file.created")[0])


def test_too_many_wrong_keys_are_refused_unheard(tmp_path: Path, base_model_dir: Path) -> None:
    stand = Stand(tmp_path, model_cache=base_model_dir.parent)
    stand.start_web()
    try:
        sign_in = f"{stand.url}/dashboard/session"
        for _ in range(MAX_FAILURES + 1):
            assert httpx.post(sign_in, data={"key": stand.key}).headers["location"] == "/dashboard/"

        def guess(number: int) -> int:
            return httpx.post(sign_in, data={"key": f"sk-guess-{number}-of-many"}).status_code

        with ThreadPoolExecutor(20) as at_once:
            statuses = list(at_once.map(guess, range(40)))
        assert statuses.count(303) == MAX_FAILURES and set(statuses) == {303, 429}
        answer = httpx.post(f"{stand.url}/dashboard/session", data={"key": stand.key})
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
        assert COOKIE not in answer.cookies
    finally:
        stand.stop_all()
