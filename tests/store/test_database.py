import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from tests.fixtures_services import Postgres
from tunery.settings import SettingsError
from tunery.store import completions, responses
from tunery.store.database import connect, migrate, read, write
from tunery.store.tables import metadata
from tunery.store.tenants import find_key


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'folder that is made' / 'tunery.db'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.empty()


def test_migrations_make_exactly_the_tables(database: Engine) -> None:
    with read(database) as conn:
        assert compare_metadata(MigrationContext.configure(conn), metadata) == []


def test_migrate_is_a_no_op_the_second_time(empty_url: str) -> None:
    engine = connect(empty_url)
    migrate(engine)
    migrate(engine)
    assert set(metadata.tables) <= set(inspect(engine).get_table_names())
    engine.dispose()


START = "import sys; from tunery.store.database import connect, migrate; migrate(connect(sys.argv[1]))"


def test_processes_that_start_together_migrate_once(empty_url: str) -> None:
    starts = [subprocess.Popen([sys.executable, "-c", START, empty_url], stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1].decode() for process in starts]
    assert [process.returncode for process in starts] == [0, 0, 0], errors


def test_a_migration_that_fails_leaves_nothing(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = connect(empty_url)
    monkeypatch.setattr("alembic.op.create_index", _refuse)
    with pytest.raises(RuntimeError, match="disk full"):
        migrate(engine)
    monkeypatch.undo()
    assert inspect(engine).get_table_names() == []
    migrate(engine)
    engine.dispose()


OLD_KEYS = """
INSERT INTO organizations (id, name, slug, created_at) VALUES ('org', 'o', 'o', 1);
INSERT INTO api_keys (id, organization_id, name, prefix, hash, hint, created_at, role, scopes) VALUES
  ('all', 'org', 'n', 'p1', 'h', 'h', 1, 'owner', '[]'),
  ('some', 'org', 'n', 'p2', 'h', 'h', 1, 'owner', '["api.files.read"]');
"""


def test_a_key_of_the_version_before_that_could_do_everything_still_can(empty_url: str) -> None:
    engine = connect(empty_url)
    migrate(engine, "0002")
    with write(engine) as conn:
        for statement in OLD_KEYS.split(";\n"):
            if statement.strip():
                conn.execute(text(statement))
    migrate(engine)
    with read(engine) as conn:
        scopes = {key_id: key.scopes for key_id in ("all", "some") if (key := find_key(conn, key_id))}
    assert scopes == {"all": ("api.all",), "some": ("api.files.read",)}
    engine.dispose()


SERVED = """
INSERT INTO organizations (id, name, slug, created_at) VALUES ('org', 'o', 'o', 1);
INSERT INTO projects (id, organization_id, name, created_at) VALUES ('p', 'org', 'p', 1);
INSERT INTO stored_completions (id, project_id, created_at, model, request, response)
  VALUES ('chat', 'p', 1, 'm', '{"messages": [1]}', '{"choices": [2]}');
INSERT INTO responses (id, project_id, created_at, model, status, body)
  VALUES ('resp', 'p', 1, 'm', 'completed', '{"instructions": "é"}');
INSERT INTO response_items (id, project_id, created_at, response_id, direction, item)
  VALUES ('msg', 'p', 1, 'resp', 'output', '{"id": "msg"}');
INSERT INTO response_events (response_id, last_number, events) VALUES ('resp', 0, '[{"sequence_number": 0}]');
"""


def test_what_the_version_before_kept_of_answers_is_still_there(empty_url: str) -> None:
    engine = connect(empty_url)
    migrate(engine, "0012")
    with write(engine) as conn:
        for statement in filter(str.strip, SERVED.split(";\n")):
            conn.exec_driver_sql(statement)
    migrate(engine)
    with read(engine) as conn:
        completion = completions.get_completion(conn, "chat", "p")
        assert (completion.request, completion.response) == ({"messages": [1]}, {"choices": [2]})
        assert responses.get_response(conn, "resp", "p").body == {"instructions": "é"}
        assert responses.items_of(conn, "resp") == [{"id": "msg"}]
        assert responses.events_after(conn, "resp", -1) == [{"sequence_number": 0}]
    engine.dispose()


def _refuse(*_: object, **__: object) -> None:
    raise RuntimeError("disk full")


def test_an_exception_rolls_the_transaction_back(database: Engine) -> None:
    with pytest.raises(KeyError), write(database) as conn:
        conn.execute(text("INSERT INTO organizations (id, name, slug, created_at) VALUES ('org-1', 'a', 'a', 1)"))
        raise KeyError
    with read(database) as conn:
        assert conn.execute(text("SELECT count(*) FROM organizations")).scalar_one() == 0


def test_reading_does_not_wait_for_a_writer(database: Engine) -> None:
    with write(database) as writer:
        writer.execute(text("INSERT INTO organizations (id, name, slug, created_at) VALUES ('org-1', 'a', 'a', 1)"))
        with read(database) as reader:
            assert reader.execute(text("SELECT count(*) FROM organizations")).scalar_one() == 0


def test_foreign_keys_are_enforced(database: Engine) -> None:
    with pytest.raises(IntegrityError), write(database) as conn:
        conn.execute(text("INSERT INTO projects (id, organization_id, name, created_at) VALUES ('p', 'none', 'p', 1)"))


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET type = 'x'", "DELETE FROM audit_log"])
def test_the_audit_log_is_append_only_in_the_database_itself(database: Engine, statement: str) -> None:
    with write(database) as conn:
        conn.execute(text("INSERT INTO organizations (id, name, slug, created_at) VALUES ('org-1', 'a', 'a', 1)"))
        conn.execute(
            text(
                "INSERT INTO audit_log (id, organization_id, created_at, type, actor, details) "
                "VALUES ('audit-1', 'org-1', 1, 't', '{}', '{}')"
            )
        )
    with pytest.raises(DBAPIError, match="append-only"), write(database) as conn:
        conn.execute(text(statement))


@pytest.mark.parametrize(
    ("url", "problem"), [("secret-password", "no address of a database"), ("mysql://host/name", "not mysql")]
)
def test_a_database_url_that_cannot_be_used_is_named_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as caught:
        connect(url)
    assert "secret-password" not in str(caught.value)
