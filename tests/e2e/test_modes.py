"""What `tunery serve` keeps is its user's alone, with any umask, also what was there before."""

import stat

import pytest

from tests.e2e.conftest import OLD, Served
from tests.launch.processes import wait_for

pytestmark = pytest.mark.e2e


def test_nothing_in_home_is_open_to_others(served: Served) -> None:
    client = served.client()
    file = client.files.create(file=("a.txt", b"private"), purpose="user_data")
    kept = ("tunery.db", "tunery.db-wal", "tunery.db-shm", "secrets.key", "server.json", "logs/worker.log", *OLD)
    wait_for(lambda: all((served.home / name).exists() for name in (*kept, f"blobs/files/{file.id}")))

    paths = [path for path in (served.home, *served.home.rglob("*")) if not path.is_symlink()]
    open_ones = [str(path) for path in paths if path.exists() and path.stat().st_mode & 0o077]
    assert open_ones == []
    assert stat.S_IMODE(served.home.stat().st_mode) == 0o700
    assert stat.S_IMODE((served.home / "tunery.db").stat().st_mode) == 0o600
