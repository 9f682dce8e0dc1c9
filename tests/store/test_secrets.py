"""Secrets in the database: encrypted, by a key that is never silently another one."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Engine, text

from tests.fixtures_services import Postgres
from tunery.domain.errors import Unavailable
from tunery.domain.notices import WebhookEndpoint
from tunery.settings import load_settings
from tunery.store import webhooks
from tunery.store.database import connect, migrate, open_database, read, write
from tunery.store.secrets import Secrets, SecretsKeyError

OLD_ROWS = """
INSERT INTO organizations (id, name, slug, created_at) VALUES ('org', 'o', 'o', 1);
INSERT INTO projects (id, organization_id, name, created_at) VALUES ('p', 'org', 'p', 1);
INSERT INTO webhook_endpoints (id, project_id, name, url, event_types, created_at, secret, old_secret) VALUES
  ('one', 'p', 'n', 'https://a.test', '[]', 1, 'whsec_b25l', NULL),
  ('two', 'p', 'n', 'https://a.test', '[]', 1, 'whsec_dHdv', 'whsec_b2xk')
"""
SECRETS = {"one": ("whsec_b25l", None), "two": ("whsec_dHdv", "whsec_b2xk")}
Open = Callable[..., Engine]


@pytest.fixture(params=["sqlite", "postgres"])
def open_(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens one and the same empty database with settings."""
    url = ""
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.empty()
    opened: list[Engine] = []

    def open_one(*, before: bool = False, **settings: str) -> Engine:
        found = load_settings(**{"home": tmp_path, "database_url": url, **settings})
        opened.append(connect(found.resolved_database_url) if before else open_database(found))
        return opened[-1]

    yield open_one
    for engine in opened:
        engine.dispose()


@pytest.fixture
def filled(open_: Open) -> Open:
    """The version before wrote the rows; this one has started once."""
    old = open_(before=True)
    migrate(old, "0004")
    with write(old) as conn:
        for statement in OLD_ROWS.split(";\n"):
            conn.execute(text(statement))
    migrate(open_())
    return open_


def stored(engine: Engine) -> str:
    with read(engine) as conn:
        return str(conn.execute(text("SELECT secret, old_secret FROM webhook_endpoints")).all())


def secrets(engine: Engine) -> dict[str, tuple[str, str | None]]:
    with read(engine) as conn:
        page = webhooks.list_endpoints(conn, "p")
    return {endpoint.id: (endpoint.secret, endpoint.old_secret) for endpoint in page.items}


def test_rows_of_the_version_before_are_encrypted_and_read_as_before(filled: Open, tmp_path: Path) -> None:
    engine = filled()
    assert "whsec_" not in stored(engine)
    assert secrets(engine) == SECRETS
    assert (tmp_path / "secrets.key").stat().st_mode & 0o777 == 0o600
    before = stored(engine)
    migrate(filled())
    assert stored(engine) == before, "they were encrypted again at the next start"


def test_what_is_written_is_encrypted(filled: Open) -> None:
    engine = filled()
    endpoint = WebhookEndpoint("three", "p", "n", "https://a.test", (), 1, "whsec_bmV3", old_secret="whsec_b2xkZXI=")
    with write(engine) as conn:
        webhooks.insert_endpoint(conn, endpoint)
        webhooks.rotate_secret(conn, "one", "p", secret="whsec_YWdhaW4=", now=1, keep_old_s=60)
        webhooks.update_endpoint(conn, "two", "p", now=2, name="other")
    assert "whsec_" not in stored(engine)
    assert secrets(engine) == {
        "one": ("whsec_YWdhaW4=", "whsec_b25l"),
        "two": SECRETS["two"],
        "three": ("whsec_bmV3", "whsec_b2xkZXI="),
    }


def test_a_lost_key_is_never_replaced_by_a_new_one(filled: Open, tmp_path: Path) -> None:
    (tmp_path / "secrets.key").rename(tmp_path / "backup")
    with pytest.raises(SecretsKeyError, match=f"missing: restore {tmp_path}/secrets.key"):
        migrate(filled())
    assert not (tmp_path / "secrets.key").exists()
    (tmp_path / "backup").rename(tmp_path / "secrets.key")
    engine = filled()
    migrate(engine)
    assert secrets(engine) == SECRETS


def test_another_machine_without_the_key_is_refused_and_with_it_reads(filled: Open, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    key = (tmp_path / "secrets.key").read_text().strip()
    same = {} if filled().dialect.name == "postgresql" else {"database_url": f"sqlite:///{tmp_path / 'tunery.db'}"}
    given = filled(home=elsewhere, secrets_key=key, **same)
    migrate(given)
    assert secrets(given) == SECRETS
    if not same:  # SQLite's key lies beside the database, wherever home is
        with pytest.raises(SecretsKeyError, match="missing"):
            migrate(filled(home=elsewhere))


@pytest.mark.parametrize("where", ["file", "setting"])
def test_a_wrong_key_is_refused(filled: Open, tmp_path: Path, where: str) -> None:
    other, file = Fernet.generate_key().decode(), tmp_path / "secrets.key"
    before = stored(filled())
    file.write_text(f"{other}\n") if where == "file" else file.unlink()
    wrong = filled() if where == "file" else filled(secrets_key=other)
    with pytest.raises(SecretsKeyError, match=r"another key than that of .*restore"):
        migrate(wrong)
    assert stored(wrong) == before
    with pytest.raises(Unavailable, match="operator must restore"):
        secrets(wrong)


@pytest.mark.parametrize("content", ["", "short\n", "é" * 44, f"{'A' * 43}=\nsecond"])
def test_a_damaged_key_file_is_named(filled: Open, tmp_path: Path, content: str) -> None:
    (tmp_path / "secrets.key").write_text(content)
    with pytest.raises(SecretsKeyError, match=r"secrets\.key"):
        migrate(filled())
    assert (tmp_path / "secrets.key").read_text() == content


@pytest.mark.parametrize("where", ["file", "setting"])
def test_rotation_encrypts_again_and_then_the_old_key_may_go(filled: Open, tmp_path: Path, where: str) -> None:
    file, new = tmp_path / "secrets.key", Fernet.generate_key().decode()
    before = stored(filled())
    if where == "file":
        file.write_text(f"{new}\n{file.read_text()}")
        rotated = filled()
        migrate(rotated)
        file.write_text(f"{new}\n")
        alone = filled()
    else:
        rotated = filled(secrets_key=new)  # the file's are the older ones
        migrate(rotated)
        file.unlink()
        alone = filled(secrets_key=new)
    assert stored(rotated) != before
    assert secrets(rotated) == SECRETS
    migrate(alone)
    assert secrets(alone) == SECRETS


START = (
    "import sys; from tunery.settings import load_settings; from tunery.store.database import open_database, migrate; "
    "migrate(open_database(load_settings()))"
)


def test_processes_that_start_at_once_make_one_key(
    open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNERY_HOME", str(tmp_path))
    engine = open_()
    url = engine.url.set(drivername=engine.dialect.name).render_as_string(hide_password=False)
    monkeypatch.setenv("TUNERY_DATABASE_URL", url)
    starts = [subprocess.Popen([sys.executable, "-c", START], stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=120)[1].decode() for process in starts]
    assert [process.returncode for process in starts] == [0, 0, 0], errors
    assert len((tmp_path / "secrets.key").read_text().splitlines()) == 1
    migrate(open_())


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (["tunery.api"], "wrong"),
        (["tunery.jobs"], "missing"),
        (["tunery.launch.web"], "malformed"),  # `tunery serve` has looked at the rest before it starts this one
        (["tunery", "serve", "--port", "0"], "missing"),
        (["tunery", "keys", "create", "k", "--local"], "wrong"),
    ],
)
def test_each_process_ends_with_one_sentence(tmp_path: Path, command: list[str], fault: str) -> None:
    settings = load_settings(home=tmp_path)
    migrate(open_database(settings))
    key = tmp_path / "secrets.key"
    key.unlink() if fault == "missing" else key.write_text(
        "x" if fault == "malformed" else Fernet.generate_key().decode()
    )
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env={"PATH": "/usr/bin:/bin", "TUNERY_HOME": str(tmp_path), **_python_path()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1, said
    assert "Traceback" not in said and "secrets.key" in said
    assert "estore" in said


def _python_path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(sys.path)}


def test_keys_are_not_printed(tmp_path: Path) -> None:
    key = Fernet.generate_key().decode()
    assert key not in repr(Secrets(tmp_path / "f", given=key)) + repr(load_settings(home=tmp_path, secrets_key=key))
