"""An outbox with a receiver: a real HTTP server that keeps what it is sent and answers what it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from tests.jobs.waiting import wait_for
from tunery.domain.clock import Clock, system_clock
from tunery.domain.ids import new_id
from tunery.domain.notices import WebhookEndpoint
from tunery.notify.dispatcher import Dispatcher
from tunery.notify.signing import new_secret
from tunery.settings import Settings, load_settings
from tunery.store import outbox, webhooks
from tunery.store.bootstrap import bootstrap
from tunery.store.database import migrate, open_database, read, write
from tunery.store.tables import outbox as outbox_table

SUCCEEDED = "fine_tuning.job.succeeded"


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes


class Receiver:
    def __init__(self) -> None:
        self.received: list[Received] = []
        self.status = 200
        self.location: str | None = None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.append(Received({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("location", receiver.location)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._handler = Handler
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    def up(self) -> None:
        """Listen; after a `down` on the same port again."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"


class Watch:
    """A clock that can be set forward: seventy-two hours must not take long."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return system_clock() + self.ahead_s


@dataclass
class Post:
    settings: Settings
    engine: Engine
    project_id: str
    watch: Watch = field(default_factory=Watch)

    def endpoint(self, url: str, **changes: Any) -> WebhookEndpoint:
        endpoint = WebhookEndpoint(
            new_id("webhook"), self.project_id, "hook", url, (SUCCEEDED,), int(self.watch()), new_secret(), **changes
        )
        with write(self.engine) as conn:
            webhooks.insert_endpoint(conn, endpoint)
        return endpoint

    def event(self, endpoint: WebhookEndpoint, job_id: str = "ftjob-1") -> str:
        event = {"object": "event", "id": new_id("webhook_event"), "type": SUCCEEDED, "created_at": 1,
                 "data": {"id": job_id}}  # fmt: skip
        with write(self.engine) as conn:
            return outbox.insert_outbox(
                conn, "webhook", SUCCEEDED, event, project_id=self.project_id, now=self.watch(), endpoint_id=endpoint.id
            )

    def mail(self, topic: str, payload: dict[str, Any], recipient: str = "a@example.org") -> str:
        with write(self.engine) as conn:
            return outbox.insert_outbox(
                conn, "email", topic, payload, project_id=self.project_id, now=self.watch(), recipient=recipient
            )

    def row(self, notice_id: str) -> Any:
        with read(self.engine) as conn:
            return conn.execute(select(outbox_table).where(outbox_table.c.id == notice_id)).one()

    def wait(self, notice_id: str, status: str) -> Any:
        return wait_for(lambda: row if (row := self.row(notice_id)).status == status else None, 15)

    def wait_for_attempt(self, notice_id: str, number: int) -> Any:
        def look() -> Any:
            row = self.row(notice_id)
            return row if row.attempts >= number and row.worker_id is None else None

        return wait_for(look, 15)

    def attempts(self, notice_id: str) -> list[Any]:
        with read(self.engine) as conn:
            page = outbox.list_deliveries(conn, self.project_id, notice_id=notice_id, limit=100)
        return list(page.items)[::-1]

    @contextmanager
    def dispatcher(self, settings: Settings | None = None) -> Iterator[None]:
        stop = threading.Event()
        dispatcher = Dispatcher(settings or self.settings, self.engine, clock=self.clock)
        thread = threading.Thread(target=dispatcher.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @property
    def clock(self) -> Clock:
        return self.watch


@pytest.fixture
def post(home: Path) -> Iterator[Post]:
    settings = load_settings(home=home, webhook_allow_private_addresses=True, smtp_from="Tunery <t@example.org>")
    engine = open_database(settings)
    migrate(engine)
    with write(engine) as conn:
        bootstrap(conn, clock=system_clock, key="sk-test-key")
        project_id = conn.exec_driver_sql("SELECT id FROM projects").scalar_one()
    yield Post(settings, engine, project_id)
    engine.dispose()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.up()
    yield receiver
    receiver.down()
