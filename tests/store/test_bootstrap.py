import subprocess
import sys

from sqlalchemy import Engine

from tests.store.conftest import NOW
from tunery.domain.tenants import Role, hash_secret, lookup_prefix
from tunery.store import tenants
from tunery.store.bootstrap import bootstrap
from tunery.store.database import read, write


def start(database: Engine, key: str | None = None) -> str | None:
    with write(database) as conn:
        return bootstrap(conn, clock=lambda: NOW, key=key)


def live_key(database: Engine, secret: str) -> bool:
    with read(database) as conn:
        key = tenants.find_key_by_prefix(conn, lookup_prefix(secret))
        return key is not None and key.hash == hash_secret(secret) and key.revoked_at is None


def test_the_first_start_makes_an_owner_with_a_key_and_says_it_once(database: Engine) -> None:
    secret = start(database)
    assert secret is not None and secret.startswith("sk-")
    assert start(database) is None
    with read(database) as conn:
        (organization,) = tenants.list_organizations(conn)
        (project,) = tenants.list_projects(conn, organization.id).items
        (member,) = tenants.list_members(conn, project.id).items
        key = tenants.find_key_by_prefix(conn, lookup_prefix(secret))
    assert (organization.slug, project.name, member.role) == ("personal", "default", Role.OWNER)
    assert key is not None and key.is_admin and key.project_id == project.id


def test_the_secret_itself_is_not_in_the_database(database: Engine) -> None:
    secret = start(database)
    assert secret
    with read(database) as conn:
        rows = conn.exec_driver_sql("SELECT * FROM api_keys").all()
    assert all(secret[8:] not in str(value) for row in rows for value in row)


def test_a_key_of_the_environment_is_taken_and_nothing_is_printed(database: Engine) -> None:
    assert start(database, "my own key") is None
    assert live_key(database, "my own key")
    assert start(database) is None


def test_a_new_key_in_the_environment_replaces_the_old_one(database: Engine) -> None:
    first = start(database)
    start(database, "first of mine")
    start(database, "second of mine")
    assert not live_key(database, "first of mine")
    assert live_key(database, "second of mine")
    assert first and live_key(database, first)


def test_a_revoked_key_of_the_environment_does_not_come_back(database: Engine) -> None:
    start(database, "mine")
    with write(database) as conn:
        key = tenants.find_key_by_prefix(conn, lookup_prefix("mine"))
        assert key and tenants.revoke_key(conn, key.id, NOW)
    start(database, "mine")
    assert not live_key(database, "mine")


START = """
import sys, time
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, write
with write(connect(sys.argv[1])) as conn:
    print(bootstrap(conn, clock=time.time, key=None))
"""


def test_two_processes_that_start_together_make_one_organisation_and_one_key(
    database: Engine, database_url: str
) -> None:
    command = [sys.executable, "-c", START, database_url]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0].strip() for process in starts]
    assert sorted(line.startswith("sk-") for line in printed) == [False, True], printed
    with read(database) as conn:
        assert len(tenants.list_organizations(conn)) == 1
