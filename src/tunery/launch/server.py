"""All of Tunery on one machine: makes the home ready, starts engine, api and worker, and keeps them running."""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from tunery.domain.clock import system_clock
from tunery.domain.errors import TuneryError
from tunery.jobs import ray_cluster
from tunery.kernels import process
from tunery.launch.children import Child, ChildSpec
from tunery.launch.engines import EngineHost
from tunery.launch.lock import HomeLock
from tunery.launch.ports import LOOPBACK, free_port, hindrance
from tunery.metering.prices import PriceTable
from tunery.models.catalog import Catalog
from tunery.models.sources.base import Progress
from tunery.settings import Settings
from tunery.store import bootstrap, database
from tunery.store.blobs import Blobs

START_TIMEOUT_S = 900.0  # the first start compiles the engine's loops; with other work beside it, for minutes
MAX_FALLS = 5  # of one part in a row while starting: more is no accident
LOOK_EVERY_S = 0.2
LEAVING_S = 3.0
STOP_TIMEOUT_S = 25.0

Say = Callable[[str], None]


class ServerFailed(TuneryError):
    """The server cannot start or go on. The message says which part and its last lines."""


@dataclass(frozen=True)
class Address:
    url: str  # without /v1
    first_key: str | None  # the secret of the key that this start made; shown once

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"


class Server:
    """Use: `prepare`, `start`, `supervise` until told to stop, `stop`. Only `prepare` may need the network."""

    def __init__(self, settings: Settings, *, say: Say, echo: bool = False) -> None:
        self._settings = settings
        self._say = say
        self._echo = echo  # the parts' output goes to this process's instead of <home>/logs
        self._lock = HomeLock(settings.home)
        self._logs = settings.home / "logs"
        self._database = database.open_database(settings)
        self._children: list[Child] = []
        self._host: EngineHost | None = None  # of the engines, where this server starts them

    def prepare(self, progress: Progress | None = None) -> None:
        """Lock the home, migrate the database, fetch the base model.

        Raises HomeInUse, ServerFailed, SettingsError and SourceError.
        """
        settings = self._settings
        _look_into_named_files(settings)
        if problem := hindrance(settings.host, 0):
            raise ServerFailed(problem)
        port = settings.port or free_port(settings.host)
        self._settings = settings.model_copy(update={"port": port})
        self._lock.acquire(self.url)
        if problem := _lasting_hindrance(settings.host, port):
            raise ServerFailed(problem)
        self._migrate()
        if settings.start_engine:
            self._host = self._engine_host()
            self._host.prepare(progress)
        self._children = [Child(spec, echo=self._echo) for spec in self._specs()]

    def _engine_host(self) -> EngineHost:
        """And api and worker are told where it is."""
        key = self._settings.engine_api_key or SecretStr(secrets.token_urlsafe(32))
        host = EngineHost(self._settings, key.get_secret_value(), self._logs, self._say, echo=self._echo)
        self._settings = self._settings.model_copy(update={"engine_host_url": host.url, "engine_api_key": key})
        return host

    def _migrate(self) -> None:
        try:
            database.migrate(self._database)
        except OperationalError as exc:
            raise ServerFailed(f"The database cannot be used: {exc.orig}") from exc

    @property
    def url(self) -> str:
        return f"http://{self._reachable_host()}:{self._settings.port}"

    def _reachable_host(self) -> str:
        host = LOOPBACK if self._settings.host in ("0.0.0.0", "::") else self._settings.host  # noqa: S104 - none is bound here
        return f"[{host}]" if ":" in host else host

    def _specs(self) -> list[ChildSpec]:
        environment = self._settings.as_environment()
        return [
            self._spec("api", "tunery.launch.web", (), environment),
            self._spec("worker", "tunery.launch.worker", (), environment),
        ]

    def _spec(self, name: str, module: str, arguments: tuple[str, ...], environment: dict[str, str]) -> ChildSpec:
        environment = {**process.instructions(self._settings.instructions), **environment}
        return ChildSpec(name, module, arguments, environment, self._logs / f"{name}.log")

    def start(self, stop: threading.Event, tell: Say | None = None) -> Address | None:
        """Start every part and wait until the API reports them all up. None when `stop` was set meanwhile. `tell` hears
        at every look what is waited for.

        A key that is given works from the first request on. One that is made is made at the end, so that a start that
        fails does not make one nobody sees. Raises ServerFailed.
        """
        if self._settings.api_key:
            self._first_key()
        if self._host is not None:
            self._host.start()
        for child in self._children:
            child.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while missing := self._missing():
            if tell is not None:
                tell(f"Starting the server: waiting for {' and '.join(missing)}")
            self._look()
            self._give_up_on_falling()
            if time.monotonic() > deadline:
                raise ServerFailed(f"The server is not up after {START_TIMEOUT_S:.0f} s. Its logs: {self._logs}.")
            if stop.wait(LOOK_EVERY_S):
                return None
        return Address(self.url, self._first_key())

    def _first_key(self) -> str | None:
        secret = self._settings.api_key.get_secret_value() if self._settings.api_key else None
        with database.write(self._database) as conn:
            return bootstrap.bootstrap(conn, clock=system_clock, key=secret)

    def issue_key(self, name: str) -> str:
        """One more key, for a command that runs on the server's own machine. Returns its secret."""
        with database.write(self._database) as conn:
            return bootstrap.issue_key(conn, clock=system_clock, name=name)

    def supervise(self, stop: threading.Event) -> None:
        """Start again what falls, until `stop` is set."""
        while not stop.wait(LOOK_EVERY_S):
            self._look()

    def stop(self) -> None:
        """The worker first, while the others still answer it: it saves its job's state. Then the rest at once."""
        for child in reversed(self._children):
            child.terminate()
            if child.spec.name == "worker":
                child.wait(STOP_TIMEOUT_S)
        if self._host is not None:
            self._host.stop()
        for child in self._children:
            child.wait(self._settings.drain_s + STOP_TIMEOUT_S)
        self._database.dispose()
        self._lock.release()

    def _look(self) -> None:
        if self._host is not None:
            self._host.look()
        for child in self._children:
            if event := child.look():
                self._say(event)

    def _give_up_on_falling(self) -> None:
        if self._host is not None and (problem := self._host.first_problem()):
            raise ServerFailed(f"The engine does not start. {problem}")
        for child in self._children:
            if child.falls >= MAX_FALLS:
                words = child.last_words()
                evidence = f"Its last lines ({child.spec.log}):\n{words}" if words else "Its output is above."
                raise ServerFailed(f"The {child.spec.name} does not start. {evidence}")

    def _missing(self) -> list[str]:
        """The parts that are not up yet."""
        try:
            health = httpx.get(f"{self.url}/health", timeout=5).json()
        except (httpx.HTTPError, ValueError):
            return ["the API"]
        return [f"the {part}" for part in ("database", "worker", "engine") if health.get(part) != "up"]


def _look_into_named_files(settings: Settings) -> None:
    """A fault in what the settings name stops the start here, not in a part that would be started again and again."""
    catalog = Catalog.of(settings)
    PriceTable.load(settings.prices, [model.name for model in catalog], catalog=catalog)
    Blobs.open(settings)
    if settings.runner == "ray":
        ray_cluster.look(settings.ray_address)


def _lasting_hindrance(host: str, port: int) -> str | None:
    """Waits a moment: the parts of a server that was killed just now are still leaving."""
    deadline = time.monotonic() + LEAVING_S
    while (problem := hindrance(host, port)) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    return problem
