import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.requests import HTTPConnection

from tests.loops import run
from tunery.dashboard.connection import Connections, SessionEnded
from tunery.dashboard.sessions import LIFETIME_S, Sessions
from tunery.settings import load_settings

KEY = "sk-0123456789abcdef"


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path / "sessions", Clock())


def test_a_session_outlives_the_process(sessions: Sessions) -> None:
    token = sessions.open(KEY).token
    found = Sessions(sessions.folder, sessions.clock).find(token)
    assert found is not None and found.key == KEY


def test_neither_the_file_nor_its_name_holds_key_or_token(sessions: Sessions) -> None:
    session = sessions.open(KEY)
    (path,) = sessions.folder.iterdir()
    assert KEY not in path.read_text() and KEY.encode().hex() not in path.read_text()
    assert session.token not in path.read_text() + path.name


def test_only_the_owner_may_read_it(sessions: Sessions) -> None:
    sessions.open(KEY)
    (path,) = sessions.folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_expired_session_is_gone(sessions: Sessions) -> None:
    token = sessions.open(KEY).token
    sessions.clock.now += LIFETIME_S  # type: ignore[attr-defined]
    assert sessions.find(token) is None
    assert list(sessions.folder.iterdir()) == []


def test_signing_out_ends_it(sessions: Sessions) -> None:
    token = sessions.open(KEY).token
    sessions.close(token)
    assert sessions.find(token) is None


def test_preferences_are_kept_beside_the_key(sessions: Sessions) -> None:
    session = sessions.open(KEY)
    sessions.change(session, theme="dark", language="ja")
    found = sessions.find(session.token)
    assert found is not None and (found.key, found.theme, found.language) == (KEY, "dark", "ja")


@pytest.mark.parametrize("token", [None, "", "short", "../../../../etc/passwd", "a" * 500, "ünicode" * 5])
def test_a_malformed_token_opens_nothing(sessions: Sessions, token: str | None) -> None:
    assert sessions.find(token) is None


@pytest.mark.parametrize("change", [bytes.upper, lambda sealed: sealed[:-1], lambda _: b'{"sealed": "00"}'])
def test_a_file_that_was_changed_opens_nothing(sessions: Sessions, change: Callable[[bytes], bytes]) -> None:
    token = sessions.open(KEY).token
    (path,) = sessions.folder.iterdir()
    path.write_bytes(change(path.read_bytes()))
    assert sessions.find(token) is None
    assert list(sessions.folder.iterdir()) == []


def test_nothing_is_asked_once_the_session_is_closed(sessions: Sessions) -> None:
    session = sessions.open(KEY)
    connections = Connections(load_settings(home=sessions.folder), sessions, lambda _: {})
    request = HTTPConnection({"type": "http", "headers": [], "server": ("127.0.0.1", 9)})  # nobody listens there
    connection = connections.for_session(request, session)
    sessions.close(session.token)
    calls = [
        lambda: connection.client.files.delete("file-x"),
        lambda: connection.get("/tunery/v1/session"),
        lambda: connection.client.admin.organization.users.retrieve("user-x"),
    ]
    for call in calls:
        with pytest.raises(SessionEnded):
            run(call())  # type: ignore[arg-type]
