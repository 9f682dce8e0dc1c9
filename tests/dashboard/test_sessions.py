"""Sessions and drafts in the database, as two apis on it see them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pytest
from sqlalchemy import Engine, select, update
from starlette.requests import HTTPConnection

from tests.loops import run
from tunery.dashboard.connection import Connections, SessionEnded
from tunery.dashboard.drafts import Drafts
from tunery.dashboard.sessions import LIFETIME_S, Sessions
from tunery.launch.dashboard_values import DatabaseValues
from tunery.settings import load_settings
from tunery.store.database import read, write
from tunery.store.tables import dashboard_values

KEY = "sk-0123456789abcdef"


@dataclass
class Apis:
    """Two that take turns."""

    database: Engine
    now: float = 1_000_000.0

    def __post_init__(self) -> None:
        self.values = cycle([DatabaseValues(self.database, self.clock) for _ in range(2)])

    def clock(self) -> float:
        return self.now

    @property
    def sessions(self) -> Sessions:
        return Sessions(next(self.values), self.clock)

    @property
    def drafts(self) -> Drafts:
        return Drafts(next(self.values))

    def rows(self) -> list[Any]:
        with read(self.database) as conn:
            return list(conn.execute(select(dashboard_values)))


@pytest.fixture
def apis(database: Engine) -> Apis:
    return Apis(database)


def test_a_session_is_the_same_at_every_api(apis: Apis) -> None:
    session = run(apis.sessions.open(KEY))
    run(apis.sessions.change(session, theme="dark", language="ja"))
    found = run(apis.sessions.find(session.token))
    assert found is not None and (found.key, found.theme, found.language) == (KEY, "dark", "ja")


def test_the_database_alone_gives_neither_key_nor_token_nor_draft(apis: Apis) -> None:
    session = run(apis.sessions.open(KEY))
    run(apis.drafts.save(session, "playground", {"prompt": "What only I know"}))
    kept = str(apis.rows())
    assert len(apis.rows()) == 2
    for secret in (KEY, KEY.encode().hex(), session.token, "What only I know"):
        assert secret not in kept


def test_an_expired_session_is_gone_and_its_rows_with_the_next_sign_in(apis: Apis) -> None:
    session = run(apis.sessions.open(KEY))
    run(apis.drafts.save(session, "playground", {"prompt": "x"}))
    apis.now += LIFETIME_S
    assert run(apis.sessions.find(session.token)) is None and run(apis.drafts.load(session)) == {}
    run(apis.sessions.open(KEY))
    assert len(apis.rows()) == 1


def test_signing_out_ends_it_with_its_drafts_and_no_other(apis: Apis) -> None:
    session, other = run(apis.sessions.open(KEY)), run(apis.sessions.open(KEY))
    run(apis.drafts.save(session, "playground", {"prompt": "x"}))
    run(apis.sessions.close(session.token))
    assert run(apis.sessions.find(session.token)) is None and run(apis.drafts.load(session)) == {}
    assert run(apis.sessions.find(other.token)) == other


def test_a_draft_is_found_by_the_next_page_of_any_api(apis: Apis) -> None:
    session = run(apis.sessions.open(KEY))
    for prompt in ("ひとつ", "two"):
        run(apis.drafts.save(session, "playground", {"prompt": prompt}))
    run(apis.drafts.save(session, "edit-file-1", {"removed": [3]}))
    assert run(apis.drafts.load(session)) == {"playground": {"prompt": "two"}, "edit-file-1": {"removed": [3]}}


@pytest.mark.parametrize("token", [None, "", "short", "../../../../etc/passwd", "a" * 500, "ünicode" * 5])
def test_a_malformed_token_opens_nothing(apis: Apis, token: str | None) -> None:
    assert run(apis.sessions.find(token)) is None


@pytest.mark.parametrize("change", [str.upper, lambda sealed: sealed[:-1], lambda _: '{"sealed": "00"}'])
def test_a_value_that_was_changed_opens_nothing(apis: Apis, change: Callable[[str], str]) -> None:
    session = run(apis.sessions.open(KEY))
    (row,) = apis.rows()
    with write(apis.database) as conn:
        conn.execute(update(dashboard_values).values(value=change(row.value)))
    assert run(apis.sessions.find(session.token)) is None


def test_nothing_is_asked_once_the_session_is_closed_at_another_api(apis: Apis) -> None:
    session = run(apis.sessions.open(KEY))
    connections = Connections(load_settings(), apis.sessions, lambda _: {})
    request = HTTPConnection({"type": "http", "headers": [], "server": ("127.0.0.1", 9)})  # nobody listens there
    connection = connections.for_session(request, session)
    run(apis.sessions.close(session.token))
    calls = [
        lambda: connection.client.files.delete("file-x"),
        lambda: connection.get("/tunery/v1/session"),
        lambda: connection.client.admin.organization.users.retrieve("user-x"),
    ]
    for call in calls:
        with pytest.raises(SessionEnded):
            run(call())  # type: ignore[arg-type]
