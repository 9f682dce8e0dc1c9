"""Opens the database, brings its schema up to date and gives out transactions."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import orjson
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from tunery import private
from tunery.settings import Settings, SettingsError
from tunery.store.secrets import OPTION, Secrets

READ_ONLY = "tunery_read_only"  # execution option
BUSY_TIMEOUT_MS = 30_000
MIGRATION_LOCK = 0x74756E65  # any constant; "tune"


def open_database(settings: Settings) -> Engine:
    """An installation's database, with the keys of its secrets. Raises SettingsError."""
    engine = connect(settings.resolved_database_url, Secrets.of(settings))
    if engine.dialect.name == "sqlite":  # it may lie outside home
        for end in ("", "-wal", "-shm"):
            private.close(Path(f"{engine.url.database}{end}"))
    return engine


def connect(url: str, secrets: Secrets | None = None) -> Engine:
    """`sqlite:///path` or `postgresql://…` (served by psycopg 3). Opens no connection yet. Without `secrets`, rows that
    hold some can be neither written nor read. Raises SettingsError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError("database_url is no address of a database.") from None  # it may hold a password
    if parsed.get_backend_name() == "sqlite":
        return _connect_sqlite(parsed, secrets)
    if parsed.get_backend_name() != "postgresql":
        raise SettingsError(f"database_url must begin with sqlite:/// or postgresql://, not {parsed.drivername}:.")
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        return create_engine(
            parsed,
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=20,
            execution_options={OPTION: secrets},
            json_deserializer=parse_json,
        )
    except ModuleNotFoundError as exc:
        raise SettingsError("Postgres needs its driver: pip install 'tunery[postgres]'.") from exc


def _connect_sqlite(url: Any, secrets: Secrets | None) -> Engine:
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=40,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000},
        execution_options={OPTION: secrets},
        json_deserializer=parse_json,
    )

    @event.listens_for(engine, "connect")
    def prepare(raw: Any, _record: Any) -> None:
        raw.isolation_level = None  # the driver's own BEGIN is deferred and skips DDL; ours is below
        cursor = raw.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last commits, a killed process none
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(conn: Connection) -> None:
        # A deferred transaction that turns from reading to writing fails at once when another wrote in between.
        read_only = conn.get_execution_options().get(READ_ONLY, False)
        conn.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def parse_json(text: str) -> Any:
    """What was stored. A page of a list has hundreds of them, so the quick parser first; what it refuses, such as NaN,
    may stand in rows of earlier versions."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


@contextmanager
def write(engine: Engine) -> Generator[Connection]:
    """One transaction that may write: committed at the end of the block, rolled back by an exception."""
    with engine.begin() as conn:
        yield conn


@contextmanager
def read(engine: Engine) -> Generator[Connection]:
    """One transaction that only reads; on SQLite it never waits for writers."""
    with engine.connect().execution_options(**{READ_ONLY: True}) as conn, conn.begin():
        yield conn


def lock_across_processes(conn: Connection, key: int) -> None:
    """Until the transaction ends nobody else passes here with this key. SQLite's writers are alone anyway."""
    if conn.dialect.name == "postgresql":
        conn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to the newest revision, or to an earlier one, and the secrets under their key. Safe when several
    processes start at once: one does it, others wait. Raises SettingsError when the key is missing or another one."""
    config = alembic.config.Config()
    config.set_main_option("script_location", "tunery.store:migrations")
    config.set_main_option("path_separator", "os")
    with write(engine) as conn:
        lock_across_processes(conn, MIGRATION_LOCK)
        config.attributes["connection"] = conn
        alembic.command.upgrade(config, revision)
        secrets: Secrets | None = conn.get_execution_options().get(OPTION)
        if secrets is not None and revision == "head":
            secrets.prepare(conn)
